"""Depth errors of one image, and the crops in which they are taken (arXiv 1406.2283, 1609.03677, 2204.00987).

A data set's score is the mean over images, as in the depth literature; pixels without ground truth do not count.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

METRICS = ("rmse", "abs_rel", "sq_rel", "rmse_log", "log10", "silog", "delta1", "delta2", "delta3")

Crop = Literal["none", "nyu", "eigen", "garg"]

_SHARES = {
    "garg": (0.40810811, 0.99189189, 0.03594771, 0.96405229),
    "eigen": (0.3324324, 0.91351351, 0.0359477, 0.96405229),
}
"""Top, bottom, left, right as shares of the sides (KITTI)."""
_NYU = (45, 471, 41, 601)
"""Top, bottom, left, right of Eigen's crop, in pixels of a 480 × 640 picture."""


def crop_mask(height: int, width: int, crop: Crop) -> NDArray[np.bool_]:
    """``[H, W]``, True where a pixel counts.

    Raises:
        ValueError: the NYU crop of a picture that is not 480 × 640.
    """
    mask = np.zeros((height, width), bool)
    if crop == "none":
        return ~mask
    if crop == "nyu":
        if (height, width) != (480, 640):
            raise ValueError(f"NYU's crop is for 480 × 640 pixels, not {height} × {width}")
        top, bottom, left, right = _NYU
    else:
        shares = _SHARES[crop]
        top, bottom = int(shares[0] * height), int(shares[1] * height)
        left, right = int(shares[2] * width), int(shares[3] * width)
    mask[top:bottom, left:right] = True
    return mask


def image_scores(
    predicted: NDArray, truth: NDArray, *, low: float, high: float, crop: Crop = "none"
) -> dict[str, float] | None:
    """Every metric of :data:`METRICS` on one image; None where no pixel counts.

    Args:
        predicted: ``[H, W]`` metres, clipped to ``low … high`` here.
        truth: ``[H, W]`` metres; what is not within ``low … high`` (0 is "unknown") does not count.

    Raises:
        ValueError: sizes differ, or a counted prediction is not finite.
    """
    if predicted.shape != truth.shape:
        raise ValueError(f"prediction of {predicted.shape} and truth of {truth.shape} pixels")
    seen = (truth > low) & (truth < high) & crop_mask(truth.shape[0], truth.shape[1], crop)
    if not seen.any():
        return None
    p, t = np.clip(predicted[seen].astype(np.float64), low, high), truth[seen].astype(np.float64)
    if not np.isfinite(p).all():
        raise ValueError("a predicted depth is not finite")
    difference, logs, ratio = p - t, np.log(p) - np.log(t), np.maximum(p / t, t / p)
    return {
        "rmse": float(np.sqrt((difference**2).mean())),
        "abs_rel": float((np.abs(difference) / t).mean()),
        "sq_rel": float((difference**2 / t).mean()),
        "rmse_log": float(np.sqrt((logs**2).mean())),
        "log10": float(np.abs(logs).mean() / np.log(10)),
        # A deviation, which rounding can push below zero.
        "silog": float(100 * np.sqrt(max((logs**2).mean() - logs.mean() ** 2, 0.0))),
        **{f"delta{n}": float((ratio < 1.25**n).mean()) for n in (1, 2, 3)},
    }
