"""Is an image worth looking at? Size, aspect, entropy and sharpness, from pixels alone.

No model belongs here, and no verdict about content.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_GREY = np.array([299, 587, 114], dtype=np.uint32)


def grey(pixels: np.ndarray) -> np.ndarray:
    """uint8 H×W×3 RGB → uint8 H×W luma (ITU-R BT.601, in integers, so equal everywhere)."""
    mixed: np.ndarray = (pixels.astype(np.uint32) @ _GREY + 500) // 1000
    return mixed.astype(np.uint8)


def entropy(luma: np.ndarray) -> float:
    """Shannon entropy of the uint8 histogram in bits: 0 for one flat colour, at most 8."""
    counts = np.bincount(luma.reshape(-1), minlength=256)
    share = counts[counts > 0] / luma.size
    return float(max(0.0, -(share * np.log2(share)).sum()))


def sharpness(luma: np.ndarray) -> float:
    """Variance of the 4-neighbour Laplacian of a uint8 H×W array; 0 where a side is under 3 pixels."""
    if min(luma.shape) < 3:
        return 0.0
    x = luma.astype(np.int32)
    laplacian = x[:-2, 1:-1] + x[2:, 1:-1] + x[1:-1, :-2] + x[1:-1, 2:] - 4 * x[1:-1, 1:-1]
    return float(laplacian.astype(np.float64).var())


@dataclass(frozen=True)
class QualityRules:
    """Limits in pixels, ratio of long to short side, bits, and variance of the Laplacian."""

    min_side: int = 16
    max_aspect: float = 5.0
    min_entropy: float = 1.0
    min_sharpness: float = 0.0


def size_reason(width: int, height: int, rules: QualityRules) -> str:
    """Why an image of this size is dropped: ``too small`` | ``too elongated`` | ``''``."""
    short, long = sorted((width, height))
    if short < rules.min_side:
        return "too small"
    return "too elongated" if long > rules.max_aspect * short else ""


def detail_reason(entropy: float, sharpness: float, rules: QualityRules) -> str:
    """Why an image with these scores is dropped: ``too little detail`` | ``too blurred`` | ``''``."""
    if entropy < rules.min_entropy:
        return "too little detail"
    return "too blurred" if sharpness < rules.min_sharpness else ""
