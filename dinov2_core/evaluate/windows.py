"""Dense prediction over pictures larger than a window: sliding windows, several scales, mirror images.

Knows nothing of heads: a function from normalised images to maps is all it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Predict = Callable[[Tensor], Tensor]
"""``[B, 3, h, w] → [B, K, h, w]``, for sides that are multiples of the patch size."""


def starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin so that they cover ``length``; the last ends at the end."""
    if length <= window:
        return [0]
    return [*range(0, length - window, stride), length - window]


def slide(predict: Predict, image: Tensor, *, window: int, stride: int, patch: int, batch: int = 4) -> Tensor:
    """The mean of overlapping windows' predictions.

    Args:
        image: ``[1, 3, H, W]``, normalised; a side shorter than ``window`` makes the window as short, and what is
            missing to a multiple of ``patch`` is filled with zeros and cut off again.
        window: a multiple of ``patch``.

    Returns:
        ``[1, K, H, W]`` float32.
    """
    height, width = image.shape[-2:]
    if window % patch:
        raise ValueError(f"a window of {window} pixels is not a multiple of the patch size {patch}")
    high, wide = (min(window, -(-side // patch) * patch) for side in (height, width))
    padded = F.pad(image, (0, max(wide - width, 0), 0, max(high - height, 0)))
    corners = [(y, x) for y in starts(padded.shape[-2], high, stride) for x in starts(padded.shape[-1], wide, stride)]
    total: Tensor | None = None
    count = torch.zeros(1, 1, *padded.shape[-2:], device=image.device)
    for first in range(0, len(corners), batch):
        part = corners[first : first + batch]
        maps = predict(torch.cat([padded[..., y : y + high, x : x + wide] for y, x in part])).float()
        if total is None:
            total = torch.zeros(1, maps.shape[1], *padded.shape[-2:], device=maps.device)
        for one, (y, x) in zip(maps, part, strict=True):
            total[0, :, y : y + high, x : x + wide] += one
            count[..., y : y + high, x : x + wide] += 1
    assert total is not None
    return (total / count.to(total.device))[..., :height, :width]


def multi_scale(
    predict: Predict,
    image: Tensor,
    *,
    size: int,
    window: int,
    stride: int,
    patch: int,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
) -> Tensor:
    """Class shares: softmax of slid logits, averaged over scales (and mirror images).

    Args:
        image: ``[1, 3, H, W]``, normalised.
        size: the shorter side at scale 1; ratios are kept.

    Returns:
        ``[1, K, H, W]``; sums to 1 over K.
    """
    height, width = image.shape[-2:]
    total: Tensor | None = None
    for scale in scales:
        factor = size * scale / min(height, width)
        shape = (max(round(height * factor), patch), max(round(width * factor), patch))
        scaled = F.interpolate(image, size=shape, mode="bilinear", align_corners=False, antialias=factor < 1)
        for mirrored in (False, True) if flip else (False,):
            view = scaled.flip(-1) if mirrored else scaled
            logits = slide(predict, view, window=window, stride=stride, patch=patch)
            logits = logits.flip(-1) if mirrored else logits
            shares = F.interpolate(logits, size=(height, width), mode="bilinear", align_corners=False).softmax(dim=1)
            total = shares if total is None else total + shares
    assert total is not None
    return total / (len(scales) * (2 if flip else 1))
