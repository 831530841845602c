"""Mean IoU against torchmetrics, with ignored pixels, absent classes, and over several processes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassJaccardIndex

from dinov2_core.evaluate.segmentation_scores import Counts, merge


@pytest.mark.parametrize("classes", [2, 5, 30])
def test_iou_equals_torchmetrics(classes: int) -> None:
    rng = np.random.default_rng(classes)
    counts, other = Counts(classes), MulticlassJaccardIndex(classes, average="none", ignore_index=255)
    for _ in range(4):
        # The last class never occurs.
        p, t = rng.integers(0, classes - 1, (2, 13, 17))
        t[rng.random(t.shape) < 0.1] = 255
        counts.add(p, t)
        other.update(torch.from_numpy(p), torch.from_numpy(t))
    ours, theirs = counts.iou(), other.compute().numpy()
    np.testing.assert_allclose(ours[:-1], theirs[:-1], atol=1e-6)
    assert np.isnan(ours[-1])
    macro = MulticlassJaccardIndex(classes, average="macro", ignore_index=255)
    macro.confmat = other.confmat
    assert counts.mean_iou() == pytest.approx(float(theirs[:-1].mean()))


def test_mean_iou_by_hand() -> None:
    counts = Counts(3)
    counts.add(np.array([[0, 0, 1, 1]]), np.array([[0, 1, 1, 255]]))
    # Class 0: 1 of 2; class 1: 1 of 2; class 2 does not occur; one pixel is ignored.
    assert counts.mean_iou() == pytest.approx(0.5)
    assert counts.pixel_accuracy() == pytest.approx(2 / 3)


def test_two_processes_equal_one() -> None:
    rng = np.random.default_rng(0)
    pairs = [rng.integers(0, 4, (2, 9, 9)) for _ in range(6)]
    whole, parts = Counts(4), [Counts(4), Counts(4)]
    for i, (p, t) in enumerate(pairs):
        whole.add(p, t)
        parts[i // 3].add(p, t)
    joined = merge(parts)
    assert joined.mean_iou() == whole.mean_iou()
    assert joined.interval() == whole.interval()


def test_the_interval_holds_the_value_and_shrinks_with_images() -> None:
    rng = np.random.default_rng(0)

    def width(images: int) -> float:
        counts = Counts(3)
        for _ in range(images):
            t = rng.integers(0, 3, (8, 8))
            counts.add(np.where(rng.random(t.shape) < rng.random(), t, 0), t)
        found = counts.interval()
        assert found.low <= found.value <= found.high
        return found.high - found.low

    assert width(200) < width(10)


def test_other_sizes_and_unknown_classes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2, 2\) and truth of \(2, 3\)"):
        Counts(3).add(np.zeros((2, 2), int), np.zeros((2, 3), int))
    with pytest.raises(ValueError, match="true class lies outside 0…2"):
        Counts(3).add(np.zeros((1, 2), int), np.array([[0, 3]]))
