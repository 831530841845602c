"""Depth errors by hand, and the crops' borders as published."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dinov2_core.evaluate.depth_scores import METRICS, crop_mask, image_scores


def test_every_metric_by_hand() -> None:
    predicted, truth = np.array([[2.0, 1.0, 9.0]]), np.array([[1.0, 1.0, 0.0]])
    found = image_scores(predicted, truth, low=0.001, high=10)
    assert found is not None
    assert set(found) == set(METRICS)
    assert found["rmse"] == pytest.approx(math.sqrt(0.5))
    assert found["abs_rel"] == pytest.approx(0.5)
    assert found["sq_rel"] == pytest.approx(0.5)
    assert found["rmse_log"] == pytest.approx(math.log(2) / math.sqrt(2))
    assert found["log10"] == pytest.approx(math.log10(2) / 2)
    assert found["silog"] == pytest.approx(100 * math.log(2) / 2)
    assert (found["delta1"], found["delta2"], found["delta3"]) == (0.5, 0.5, 0.5)


def test_the_delta_thresholds() -> None:
    found = image_scores(np.array([[1.2, 1.3, 1.6, 2.0]]), np.ones((1, 4)), low=0.001, high=10)
    assert found is not None
    assert [found[f"delta{n}"] for n in (1, 2, 3)] == [0.25, 0.5, 0.75]


def test_a_common_factor_leaves_the_scale_invariant_error_at_zero() -> None:
    truth = np.random.default_rng(0).uniform(1, 5, (6, 7))
    found = image_scores(1.7 * truth, truth, low=0.001, high=80)
    assert found is not None
    assert found["silog"] == pytest.approx(0, abs=1e-4)


def test_depths_outside_the_range_do_not_count_and_predictions_are_clipped() -> None:
    found = image_scores(np.array([[50.0, 5.0]]), np.array([[9.0, 20.0]]), low=0.001, high=10)
    assert found is not None
    assert found["rmse"] == pytest.approx(1.0)
    assert image_scores(np.ones((2, 2)), np.zeros((2, 2)), low=0.001, high=10) is None


def test_not_a_number_is_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        image_scores(np.array([[np.nan]]), np.ones((1, 1)), low=0.001, high=10)
    with pytest.raises(ValueError, match="pixels"):
        image_scores(np.ones((1, 1)), np.ones((1, 2)), low=0.001, high=10)


@pytest.mark.parametrize(
    ("crop", "height", "width", "box"),
    [
        ("nyu", 480, 640, (45, 471, 41, 601)),
        ("garg", 352, 1216, (143, 349, 43, 1172)),
        ("eigen", 352, 1216, (117, 321, 43, 1172)),
        ("none", 3, 4, (0, 3, 0, 4)),
    ],
)
def test_crops(crop: str, height: int, width: int, box: tuple[int, int, int, int]) -> None:
    mask = crop_mask(height, width, crop)  # type: ignore[arg-type]
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    assert (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1) == box
    with pytest.raises(ValueError, match="480 × 640"):
        crop_mask(10, 10, "nyu")
