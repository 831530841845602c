"""From decoded pixels to what a backbone takes: one resize rule, one normalisation, shipped with the weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor


@dataclass(frozen=True)
class Preprocessing:
    """``size``: side of the square input in pixels. ``mean``, ``std``: by channel, of pixels in 0 to 1."""

    size: int
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def square(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """``[H, W, 3]`` uint8 RGB → ``[3, size, size]`` uint8."""
        return square(pixels, self.size)

    def normalize(self, images: Tensor) -> Tensor:
        """``[B, 3, S, S]`` uint8 → float32, normalised."""
        mean, std = torch.tensor(self.mean), torch.tensor(self.std)
        return (images.float() / 255 - mean[:, None, None]) / std[:, None, None]


def square(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Shorter side to ``size`` by antialiased bicubic resize, then the centre: ``[3, size, size]`` uint8."""
    height, width = pixels.shape[:2]
    side = min(height, width)
    left, top = (width - side) / 2, (height - side) / 2
    image = Image.fromarray(pixels)
    if (width, height) != (size, size):
        image = image.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))
