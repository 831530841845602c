"""All crops of one decoded image, on a CPU worker: decoded once, cut and resized as bytes, coloured as small crops.

Each crop is cut before it is resized, with torchvision's antialiased bicubic on bytes (its kernels are the vectorised
ones), and only the small result becomes float. The colours are those of ``augmentation.finish``. Reading and batching
do not belong here.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from dinov2_core.train.augmentation import finish
from dinov2_core.train.recipe import CropConfig
from dinov2_core.train.views import Views


def enough_pixels(crops: CropConfig) -> int:
    """Pixels at which no crop's box is smaller than the crop itself: a larger JPEG may be decoded at a fraction."""
    narrow = 3 / 4  # the narrowest box of an area has this times its square side's pixels on the short side, squared
    kinds = ((crops.global_size, crops.global_scale), (crops.local_size, crops.local_scale))
    return max(int(size**2 / (scale[0] * narrow)) for size, scale in kinds)


def crop_image(pixels: NDArray[np.uint8], views: Views, crops: CropConfig) -> tuple[Tensor, Tensor]:
    """The crops of one image.

    Args:
        pixels: ``[H, W, 3]`` uint8.
        views: ``[2 + n_local]`` of this image.

    Returns:
        ``(global [2, 3, G, G], local [n_local, 3, L, L])`` uint8, not normalised.
    """
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    boxes = rounded(views.boxes, image.shape[-2:])
    made = []
    for part, size in ((slice(0, 2), crops.global_size), (slice(2, None), crops.local_size)):
        flips = views.flip[part]
        cut = torch.empty(len(flips), 3, size, size)
        for out, box, flip in zip(cut, boxes[part], flips, strict=True):
            small = resized(image, box, size)
            out.copy_(small.flip(-1) if flip else small)
        # Rounding back to bytes costs less than carrying floats between processes, and is what every crop starts from.
        done = finish(cut.div_(255), views[part]) if len(cut) else cut
        made.append(done.mul_(255).round_().to(torch.uint8))
    return made[0], made[1]


def rounded(boxes: NDArray[np.float64], size: tuple[int, int] | torch.Size) -> list[tuple[int, int, int, int]]:
    """Boxes in whole pixels, inside an image of ``size`` (height, width): ``(top, left, height, width)`` each."""
    whole = []
    for top, left, tall, wide in boxes.tolist():
        height, width = min(max(round(tall), 1), size[0]), min(max(round(wide), 1), size[1])
        whole.append((min(round(top), size[0] - height), min(round(left), size[1] - width), height, width))
    return whole


def resized(image: Tensor, box: tuple[int, int, int, int], size: int) -> Tensor:
    """The part ``box`` (top, left, height, width) of ``[3, H, W]`` uint8 at ``[3, size, size]``."""
    top, left, height, width = box
    part = image[:, top : top + height, left : left + width]
    return interpolate(part[None], size=(size, size), mode="bicubic", antialias=True)[0]


def squashed(pixels: NDArray[np.uint8], side: int) -> Tensor:
    """A whole image at ``[3, side, side]`` uint8, its aspect given up: what the batched path cuts its crops from."""
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    return resized(image, (0, 0, *image.shape[-2:]), side)
