"""What the drawn views do to pixels, as batched tensor operations on any device.

:func:`multi_crop` takes a batch of equally large images: a crop with its flip and its antialiased resize is two small
matrices, one a side, so a whole batch is two batched products. :func:`finish` takes crops, however they were cut, and
is the one place where colours, blur and solarisation are computed, for both ways. Nothing is drawn here.

Brightness, contrast and saturation are one 3 × 3 matrix and an offset: without clipping in between they commute, so of
the random order that torchvision draws only the place of hue is fixed here (last).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dinov2_core.train.recipe import CropConfig
from dinov2_core.train.views import Views

_LUMA = (0.2989, 0.587, 0.114)
BLUR_TAPS = 9
"""Width of the blur's kernel in pixels, as in the released code."""


def multi_crop(images: Tensor, views: Views, crops: CropConfig) -> tuple[Tensor, Tensor]:
    """The crops of a batch of equally large images, on their device.

    Args:
        images: ``[n, 3, S, S]`` uint8.
        views: ``[n, 2 + n_local]``, boxes in pixels of S.

    Returns:
        ``(global [2n, 3, G, G], local [n_local · n, 3, L, L])`` float32, normalised; crop 1 of each image first.
    """
    pixels = images.float().div_(255)
    made = []
    for part, size in ((views[:, :2].by_view(), crops.global_size), (views[:, 2:].by_view(), crops.local_size)):
        many = pixels.repeat(len(part.flip) // len(pixels), 1, 1, 1)
        made.append(normalize(finish(resized_crop(many, part, size), part), crops))
    return made[0], made[1]


def normalize(pixels: Tensor, crops: CropConfig) -> Tensor:
    """``[B, 3, H, W]`` in 0 to 1 → normalised by the recipe's mean and deviation."""
    mean, std = pixels.new_tensor(crops.mean), pixels.new_tensor(crops.std)
    return (pixels - mean[:, None, None]) / std[:, None, None]


def finish(pixels: Tensor, views: Views) -> Tensor:
    """Colours, gray, blur and solarisation of ``[B, 3, H, W]`` in 0 to 1, in the paper's order. Changes ``pixels``."""
    x = jitter(pixels, views)
    if views.turn.any():
        x = turn_hue(x, _on(views.turn, x))
    _replace(x, np.flatnonzero(views.gray), lambda part, rows: _luma(part).expand(-1, 3, -1, -1))
    _replace(x, np.flatnonzero(views.sigma), lambda part, rows: gaussian_blur(part, _on(views.sigma[rows], part)))
    _replace(x, np.flatnonzero(views.solarize), lambda part, rows: solarize(part))
    return x


def _replace(x: Tensor, rows: NDArray[np.int64], change: Callable[[Tensor, NDArray[np.int64]], Tensor]) -> None:
    """``x[rows] = change(x[rows], rows)``."""
    if x.device.type != "cpu" and len(rows):
        x[rows] = change(x[rows], rows)
        return
    # On a CPU gathering and scattering costs more than the work on one crop, which stays in its cache.
    for row in rows.tolist():
        x[row : row + 1] = change(x[row : row + 1], np.array([row]))


def solarize(pixels: Tensor) -> Tensor:
    """Invert what is at least 128 of 255."""
    return torch.where(pixels >= 128 / 255, 1 - pixels, pixels)


def jitter(pixels: Tensor, views: Views) -> Tensor:
    """Brightness, contrast and saturation: ``[B, 3, H, W]`` in 0 to 1 → the same, clipped once at the end."""
    light, spread, colour = (_on(values, pixels) for values in (views.light, views.spread, views.colour))
    luma = pixels.new_tensor(_LUMA)
    mixed = colour[:, None, None] * torch.eye(3, device=pixels.device) + (1 - colour)[:, None, None] * luma
    matrix = mixed * (light * spread)[:, None, None]
    # Contrast moves towards the mean luma of the brightened image.
    mean = (pixels.mean(dim=(2, 3)) * luma).sum(dim=1) * light * (1 - spread)
    out = torch.baddbmm(mean[:, None, None], matrix, pixels.flatten(2))
    return out.clamp_(0, 1).view_as(pixels)


def turn_hue(pixels: Tensor, turn: Tensor) -> Tensor:
    """Shift the hue of HSV: ``[B, 3, H, W]`` in 0 to 1, ``turn [B]`` in turns of the circle.

    With minimum m, chroma c and hue h in -3 to 3 (red at 0, green at 2, blue at -2): |h| = 1 + (g + b - r - m) / c, its
    sign is that of g - b, and a channel is m + c · clamp(2 - distance to its own hue, 0, 1). That is the textbook
    conversion without its six cases, so without a branch a pixel.
    """
    r, g, b = pixels.unbind(1)
    low = torch.minimum(torch.minimum(r, g), b)
    chroma = torch.maximum(torch.maximum(r, g), b).sub_(low)
    hue = (g + b).sub_(r).sub_(low).div_(chroma.clamp(min=1e-8)).add_(1)
    hue = hue.copysign_(g - b).add_(6 * turn[:, None, None])
    hue.sub_(torch.round(hue / 6), alpha=6)
    out = torch.empty_like(pixels)
    torch.addcmul(low, chroma, hue.abs().neg_().add_(2).clamp_(0, 1), out=out[:, 0])
    torch.addcmul(low, chroma, (hue - 2).abs_().sub_(3).abs_().sub_(1).clamp_(0, 1), out=out[:, 1])
    torch.addcmul(low, chroma, hue.add_(2).abs_().sub_(3).abs_().sub_(1).clamp_(0, 1), out=out[:, 2])
    return out


def gaussian_blur(pixels: Tensor, sigma: Tensor) -> Tensor:
    """Blur of ``sigma [B]`` pixels, 9 taps, edges mirrored: ``[B, C, H, W]``."""
    reach = min(BLUR_TAPS // 2, min(pixels.shape[-2:]) - 1)
    offsets = torch.arange(reach + 1, device=pixels.device)
    weights = torch.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
    weights = weights / (2 * weights.sum(dim=1) - weights[:, 0])[:, None]
    taps = [w[:, None, None, None] for w in weights.unbind(1)]
    x = torch.nn.functional.pad(pixels, (reach, reach, reach, reach), mode="reflect")
    # Sums of shifted views: for nine taps faster than a convolution of three channels, and exact for each image's own.
    for dim in (2, 3):
        size = x.shape[dim] - 2 * reach
        out = x.narrow(dim, reach, size) * taps[0]
        for k in range(1, reach + 1):
            pair = x.narrow(dim, reach - k, size) + x.narrow(dim, reach + k, size)
            out.addcmul_(pair, taps[k])
        x = out
    return x


def resized_crop(pixels: Tensor, views: Views, size: int) -> Tensor:
    """The box of each image, flipped where drawn, at ``[B, C, size, size]``."""
    height, width = pixels.shape[-2:]
    top, left, tall, wide = (_on(views.boxes[:, i], pixels) for i in range(4))
    down = sampling_matrix(top, tall, height, size)
    across = sampling_matrix(left, wide, width, size)
    across = torch.where(torch.from_numpy(views.flip).to(pixels.device)[:, None, None], across.flip(1), across)
    b, c, h, w = pixels.shape
    narrowed = torch.bmm(pixels.reshape(b, c * h, w), across.transpose(1, 2)).view(b, c, h, -1)
    return torch.matmul(down[:, None], narrowed)


def sampling_matrix(start: Tensor, length: Tensor, side: int, size: int) -> Tensor:
    """Antialiased linear sampling of ``size`` points from ``[start, start + length)`` of ``side`` pixels.

    Returns:
        ``[B, size, side]``; each row sums to 1.
    """
    step = length / size
    device = start.device
    centers = start[:, None] + (torch.arange(size, device=device) + 0.5) * step[:, None]
    # The triangle is as wide as what one output pixel covers, and never narrower than bilinear.
    reach = step.clamp(min=1.0)[:, None, None]
    distance = (torch.arange(side, device=device) + 0.5 - centers[..., None]).abs()
    weights = (1 - distance / reach).clamp(min=0)
    return weights / weights.sum(dim=-1, keepdim=True)


def _luma(pixels: Tensor) -> Tensor:
    r, g, b = pixels.split(1, dim=1)
    return r * _LUMA[0] + g * _LUMA[1] + b * _LUMA[2]


def _on(values: NDArray[np.floating], like: Tensor) -> Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.float32)).to(like.device)
