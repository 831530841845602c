"""What is learnt in the same minutes: the benchmark's own parts, on a handful of made-up pictures."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import learns
from dinov2_core.train import recipes
from dinov2_core.train.recipe import override
from pipelines.demo.pictures import Cifar


@pytest.fixture
def data() -> Cifar:
    """Two classes that differ in brightness by far more than the noise."""
    rng = np.random.default_rng(0)
    labels = np.arange(160) % 2
    pictures = (rng.integers(0, 60, (160, 32, 32, 3)) + 150 * labels[:, None, None, None]).astype(np.uint8)
    return Cifar(pictures[:100], labels[:100], pictures[100:], labels[100:])


def test_pixels_tell_light_from_dark(data: Cifar) -> None:
    assert learns.pixels(data)["knn"] == 100


def test_ours_fills_the_minutes_and_is_scored_on_the_test_pictures(
    data: Cifar, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learns, "PROBE_STEPS", 3)
    found = learns.ours(override(recipes.get("demo"), {"model.depth": 1}), 0.03, data, "cpu")
    assert found["images"] >= 3 * 32
    assert found["knn"] > 60
    assert found["images_s"] == pytest.approx(found["images"] / found["minutes"] / 60)


def test_every_ablation_is_a_setting_of_the_recipe() -> None:
    for change in learns.ABLATIONS.values():
        assert override(recipes.get("demo"), change) != recipes.get("demo")
