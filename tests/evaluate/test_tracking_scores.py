"""J and F on masks whose scores are known."""

from __future__ import annotations

import numpy as np
import pytest

from dinov2_core.evaluate.tracking_scores import boundary, contour, region, sequence_scores


def _square(top: int, left: int, side: int = 20, size: int = 100) -> np.ndarray:
    mask = np.zeros((size, size), bool)
    mask[top : top + side, left : left + side] = True
    return mask


def test_region_by_hand() -> None:
    assert region(_square(10, 10), _square(10, 10)) == 1.0
    assert region(_square(10, 10), _square(10, 20)) == pytest.approx(200 / 600)
    assert region(np.zeros((4, 4), bool), np.zeros((4, 4), bool)) == 1.0


def test_a_boundary_is_one_pixel_wide_and_closed() -> None:
    # A square of side s has 4s + 1 boundary pixels: s + 1 each above and below, and the columns between.
    assert boundary(_square(10, 10)).sum() == 4 * 20
    assert not boundary(np.ones((5, 5), bool)).any()


def test_contours_match_within_the_tolerance_only() -> None:
    # 0.008 of a 141-pixel diagonal: 2 pixels.
    assert contour(_square(10, 10), _square(10, 10)) == 1.0
    assert contour(_square(10, 10), _square(12, 10)) == 1.0
    assert contour(_square(10, 10), _square(16, 16)) < 0.5
    assert contour(_square(10, 10), _square(60, 60)) == 0.0


def test_empty_contours() -> None:
    empty = np.zeros((100, 100), bool)
    assert contour(empty, empty) == 1.0
    assert contour(empty, _square(10, 10)) == 0.0


def test_contour_equals_matching_by_distance() -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        a, b = (_square(*rng.integers(5, 60, 2), side=int(rng.integers(5, 30))) for _ in range(2))
        p, t = np.argwhere(boundary(a)), np.argwhere(boundary(b))
        near = np.linalg.norm(p[:, None] - t[None], axis=-1) <= 2
        precision, recall = near.any(axis=1).mean(), near.any(axis=0).mean()
        expected = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
        assert contour(a, b) == pytest.approx(expected)


def test_the_first_and_the_last_frame_do_not_count() -> None:
    good, bad = _square(10, 10).astype(int), np.zeros((100, 100), int)
    assert sequence_scores([bad, good, bad], [good] * 3, [1]) == {1: (1.0, 1.0)}
    assert sequence_scores([good, bad, good], [good] * 3, [1]) == {1: (0.0, 0.0)}
    with pytest.raises(ValueError, match="3 or more"):
        sequence_scores([good], [good], [1])
