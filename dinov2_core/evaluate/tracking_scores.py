"""Region and boundary scores of video object segmentation (J and F; DAVIS: CVPR 2016 and arXiv 1704.00675)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

TOLERANCE = 0.008
"""How far apart matching boundary pixels may lie, as a share of the picture's diagonal."""


def region(predicted: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """J: intersection over union of two masks ``[H, W]``; 1 where both are empty."""
    union = (predicted | truth).sum()
    return float((predicted & truth).sum() / union) if union else 1.0


def boundary(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels that differ from their right, lower or lower right neighbour: a line one pixel wide, half a pixel off.

    ``mask``: ``[H, W]``. At the right and lower border only the neighbour that exists is asked.
    """
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    here = padded[:-1, :-1]
    edge: NDArray[np.bool_] = (here ^ padded[:-1, 1:]) | (here ^ padded[1:, :-1]) | (here ^ padded[1:, 1:])
    edge[-1, -1] = False
    return edge


def contour(predicted: NDArray[np.bool_], truth: NDArray[np.bool_], *, tolerance: float = TOLERANCE) -> float:
    """F: harmonic mean of boundary precision and recall, matched within ``ceil(tolerance · diagonal)`` pixels.

    Two empty boundaries agree (1); an empty one and another do not (0).
    """
    reach = int(np.ceil(tolerance * np.hypot(*truth.shape))) if tolerance < 1 else int(tolerance)
    p, t = boundary(predicted), boundary(truth)
    if not p.any() or not t.any():
        return float(p.any() == t.any())
    disk = _disk(reach)
    precision = (p & ndimage.binary_dilation(t, disk)).sum() / p.sum()
    recall = (t & ndimage.binary_dilation(p, disk)).sum() / t.sum()
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def sequence_scores(
    predicted: Sequence[NDArray], truth: Sequence[NDArray], objects: Sequence[int]
) -> dict[int, tuple[float, float]]:
    """Each object's mean J and F over the frames between the first (given) and the last (left out by DAVIS).

    Args:
        predicted, truth: ``[H, W]`` object numbers a frame, 0 is background.

    Returns:
        object number → ``(J, F)``.
    """
    if len(predicted) != len(truth) or len(truth) < 3:
        raise ValueError(f"{len(predicted)} predicted and {len(truth)} true frames; the same number, 3 or more, needed")
    pairs = list(zip(predicted[1:-1], truth[1:-1], strict=True))
    scores = {}
    for number in objects:
        j = [region(p == number, t == number) for p, t in pairs]
        f = [contour(p == number, t == number) for p, t in pairs]
        scores[number] = (float(np.mean(j)), float(np.mean(f)))
    return scores


def _disk(radius: int) -> NDArray[np.bool_]:
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    return (x * x + y * y) <= radius * radius
