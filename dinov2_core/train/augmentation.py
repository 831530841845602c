"""Random crops and their colours, as batched tensor operations on a pool of equally sized images.

A crop with its flip and its antialiased resize is two small matrices, one a side, so a whole batch is two batched
products, on CPU or GPU, and so is a blur. Brightness, saturation, hue and gray are one 3 × 3 matrix an image.
Nothing is drawn here but from the generator given, so a batch is a function of its seed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dinov2_core.train.recipe import CropConfig

_LUMA = (0.299, 0.587, 0.114)
_ASPECT = (3 / 4, 4 / 3)


def multi_crop(images: Tensor, crops: CropConfig, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The crops of one batch.

    Args:
        images: ``[B, 3, S, S]`` uint8.

    Returns:
        ``(global [2B, 3, G, G], local [n_local · B, 3, L, L])`` float32, normalised; crop 1 of each image first.
    """
    pixels = images.float().div_(255)
    first = _view(pixels, crops.global_size, crops.global_scale, crops, crops.blur[0], 0.0, generator)
    second = _view(pixels, crops.global_size, crops.global_scale, crops, crops.blur[1], crops.solarize, generator)
    local = pixels.repeat(crops.locals, 1, 1, 1)
    if crops.locals:
        local = _view(local, crops.local_size, crops.local_scale, crops, crops.blur[2], 0.0, generator)
    return torch.cat([first, second]), local


def normalize(pixels: Tensor, crops: CropConfig) -> Tensor:
    """``[B, 3, H, W]`` in 0 to 1 → normalised by the recipe's mean and deviation."""
    mean, std = pixels.new_tensor(crops.mean), pixels.new_tensor(crops.std)
    return (pixels - mean[:, None, None]) / std[:, None, None]


def _view(
    pixels: Tensor,
    size: int,
    scale: tuple[float, float],
    crops: CropConfig,
    blur: float,
    solarize: float,
    generator: torch.Generator,
) -> Tensor:
    x = resized_crop(pixels, size, scale, crops.flip, generator)
    x = jitter_colours(x, crops, generator)
    if blur:
        x = gaussian_blur(x, blur, crops.blur_sigma, generator)
    if solarize:
        chosen = _chance(len(x), solarize, generator)
        x = torch.where(chosen[:, None, None, None] & (x >= 0.5), 1 - x, x)
    return normalize(x, crops)


def resized_crop(
    pixels: Tensor, size: int, scale: tuple[float, float], flip: float, generator: torch.Generator
) -> Tensor:
    """A random part of each image, of area ``scale`` and aspect 3/4 to 4/3, at ``[B, C, size, size]``."""
    b, side = len(pixels), pixels.shape[-1]
    area = _uniform(b, *scale, generator)
    ratio = _uniform(b, math.log(_ASPECT[0]), math.log(_ASPECT[1]), generator).exp()
    height = (area / ratio).sqrt().clamp(max=1.0) * side
    width = (area * ratio).sqrt().clamp(max=1.0) * side
    top = _uniform(b, 0, 1, generator) * (side - height)
    left = _uniform(b, 0, 1, generator) * (side - width)
    down = sampling_matrix(top, height, side, size)
    across = sampling_matrix(left, width, side, size)
    flipped = _chance(b, flip, generator)[:, None, None]
    across = torch.where(flipped, across.flip(1), across)
    return _separable(pixels, down, across)


def sampling_matrix(start: Tensor, length: Tensor, side: int, size: int) -> Tensor:
    """Antialiased linear sampling of ``size`` points from ``[start, start + length)`` of ``side`` pixels.

    Returns:
        ``[B, size, side]``; each row sums to 1.
    """
    step = length / size
    centers = start[:, None] + (torch.arange(size) + 0.5) * step[:, None]
    # The triangle is as wide as what one output pixel covers, and never narrower than bilinear.
    reach = step.clamp(min=1.0)[:, None, None]
    distance = (torch.arange(side) + 0.5 - centers[..., None]).abs()
    weights = (1 - distance / reach).clamp(min=0)
    return weights / weights.sum(dim=-1, keepdim=True)


def _separable(pixels: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """``down · image · acrossᵀ`` for every channel."""
    b, c, h, w = pixels.shape
    wide = torch.bmm(pixels.reshape(b, c * h, w), across.transpose(1, 2)).view(b, c, h, -1)
    return torch.matmul(down[:, None], wide)


def jitter_colours(pixels: Tensor, crops: CropConfig, generator: torch.Generator) -> Tensor:
    """Brightness, contrast, saturation and hue, then gray, each with its probability; ``[B, 3, H, W]`` in 0 to 1.

    Hue turns the chroma plane of YIQ, which is linear; order is fixed (torchvision draws it), clamping at the end.
    """
    b = len(pixels)
    brightness, contrast, saturation, hue = crops.jitter
    apply = _chance(b, crops.jitter_probability, generator)
    gray = _chance(b, crops.gray, generator)
    light = _factor(b, brightness, generator)
    spread = _factor(b, contrast, generator)
    colour = _factor(b, saturation, generator)
    turn = _uniform(b, -hue, hue, generator) * 2 * math.pi
    light, spread, colour = (torch.where(apply, f, torch.ones(())) for f in (light, spread, colour))
    turn = torch.where(apply, turn, torch.zeros(()))
    colour = torch.where(gray, torch.zeros(()), colour)

    to_yiq = torch.tensor([_LUMA, (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112)])
    zero, one = torch.zeros(b), torch.ones(b)
    cos, sin = colour * turn.cos(), colour * turn.sin()
    chroma = torch.stack([one, zero, zero, zero, cos, -sin, zero, sin, cos], dim=1).view(b, 3, 3)
    matrix = torch.linalg.inv(to_yiq) @ chroma @ to_yiq * (light * spread)[:, None, None]
    out = torch.bmm(matrix, pixels.flatten(2))
    # Contrast moves towards the mean luma of the brightened image.
    mean = (pixels.mean(dim=(2, 3)) * torch.tensor(_LUMA)).sum(dim=1) * light * (1 - spread)
    return (out + mean[:, None, None]).clamp_(0, 1).view_as(pixels)


def gaussian_blur(pixels: Tensor, probability: float, sigma: tuple[float, float], generator: torch.Generator) -> Tensor:
    """Blur of a random deviation in ``sigma`` pixels on a random part of the images."""
    b, side = len(pixels), pixels.shape[-1]
    chosen = _chance(b, probability, generator)
    deviation = _uniform(b, *sigma, generator)
    index = chosen.nonzero().flatten()
    if not len(index):
        return pixels
    offsets = torch.arange(side)[:, None] - torch.arange(side)[None]
    kernel = torch.exp(-(offsets**2) / (2 * deviation[index, None, None] ** 2))
    kernel = kernel / kernel.sum(dim=-1, keepdim=True)
    out = pixels.clone()
    out[index] = _separable(pixels[index], kernel, kernel)
    return out


def _uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return torch.rand(count, generator=generator) * (high - low) + low


def _factor(count: int, strength: float, generator: torch.Generator) -> Tensor:
    return _uniform(count, max(0.0, 1 - strength), 1 + strength, generator)


def _chance(count: int, probability: float, generator: torch.Generator) -> Tensor:
    return torch.rand(count, generator=generator) < probability
