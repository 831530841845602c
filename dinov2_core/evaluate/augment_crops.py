"""Training augmentation of the linear and fine-tuning protocols: a random resized crop and a mirror (appendix B.3)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dinov2_core.evaluate.datasets.labelled import Picture


def augmented(pictures: Sequence[Picture], size: int, generator: torch.Generator) -> Tensor:
    """``[B, 3, size, size]`` uint8: 8 to 100 % of the area, sides up to 3:4, bicubic; mirrored half of the time."""
    return torch.from_numpy(np.stack([_one(p.pixels(), size, generator) for p in pictures]))


def _one(pixels: np.ndarray, size: int, generator: torch.Generator) -> np.ndarray:
    height, width = pixels.shape[:2]
    left, top, w, h = _box(height, width, generator)
    image = Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + w, top + h))
    made = np.asarray(image).transpose(2, 0, 1)
    return np.ascontiguousarray(made[:, :, ::-1] if torch.rand((), generator=generator) < 0.5 else made)


def _box(height: int, width: int, generator: torch.Generator) -> tuple[int, int, int, int]:
    """Left, top, width and height; after ten misses the largest box in the middle with a fitting ratio."""
    for _ in range(10):
        draw = torch.rand(4, generator=generator).tolist()
        area = height * width * (0.08 + 0.92 * draw[0])
        ratio = math.exp(math.log(3 / 4) + draw[1] * (math.log(4 / 3) - math.log(3 / 4)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(draw[2] * (width - w + 1)), int(draw[3] * (height - h + 1)), w, h
    w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    return (width - w) // 2, (height - h) // 2, w, h
