"""A picture and its target cut alike: random scale, crop and mirror for training, or one whole square.

Targets are resized to the nearest pixel, so that no label or depth is made up.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

SCALES = (0.5, 2.0)


def cropped(
    pixels: NDArray[np.uint8],
    target: NDArray,
    size: int,
    rng: np.random.Generator,
    *,
    fill: float,
    scales: tuple[float, float] = SCALES,
) -> tuple[Tensor, Tensor]:
    """Shorter side to ``size · U(scales)``, a random square of ``size``, mirrored half of the time.

    Args:
        pixels: ``[H, W, 3]``; ``target``: ``[H, W]``.
        fill: the target's value where the picture does not reach.

    Returns:
        ``[3, size, size]`` uint8, ``[size, size]`` of the target's type.
    """
    factor = size * rng.uniform(*scales) / min(target.shape)
    shape = (max(round(target.shape[0] * factor), 1), max(round(target.shape[1] * factor), 1))
    pixels, target = _resized(pixels, target, shape)
    down, right = max(size - shape[0], 0), max(size - shape[1], 0)
    if down or right:
        pixels = np.pad(pixels, ((0, down), (0, right), (0, 0)))
        target = np.pad(target, ((0, down), (0, right)), constant_values=fill)
    top = int(rng.integers(target.shape[0] - size + 1))
    left = int(rng.integers(target.shape[1] - size + 1))
    pixels, target = pixels[top : top + size, left : left + size], target[top : top + size, left : left + size]
    if rng.random() < 0.5:
        pixels, target = pixels[:, ::-1], target[:, ::-1]
    return _tensors(pixels, target)


def squared(pixels: NDArray[np.uint8], target: NDArray, size: int) -> tuple[Tensor, Tensor]:
    """The whole picture as a square of ``size``, whatever its ratio; arguments and result as :func:`cropped`."""
    return _tensors(*_resized(pixels, target, (size, size)))


def _resized(pixels: NDArray[np.uint8], target: NDArray, shape: tuple[int, int]) -> tuple[NDArray, NDArray]:
    image = Image.fromarray(pixels).resize((shape[1], shape[0]), Image.Resampling.BILINEAR)
    rows = ((np.arange(shape[0]) + 0.5) * target.shape[0] / shape[0]).astype(int)
    columns = ((np.arange(shape[1]) + 0.5) * target.shape[1] / shape[1]).astype(int)
    return np.asarray(image), target[rows[:, None], columns[None]]


def _tensors(pixels: NDArray, target: NDArray) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy()), torch.from_numpy(target.copy())
