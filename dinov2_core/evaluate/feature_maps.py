"""Patch features of chosen blocks as maps, what every dense probe stands on (paper, section 7.4).

Heads do not belong here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dinov2_core.errors import UserError
from dinov2_core.model.packed import pack
from dinov2_core.model.vision_transformer import VisionTransformer

_FOUR = {12: (2, 5, 8, 11), 24: (4, 11, 17, 23), 40: (9, 19, 29, 39)}
"""Depth → blocks of "lin. 4" and DPT, from 0 (the public reference counts so)."""


def four_layers(depth: int) -> tuple[int, ...]:
    """The blocks of "lin. 4" and DPT; for depths that the paper does not have, the ends of the quarters."""
    if depth in _FOUR:
        return _FOUR[depth]
    return tuple(max(round(depth * n / 4) - 1, 0) for n in (1, 2, 3, 4))


def last_layers(depth: int, count: int) -> tuple[int, ...]:
    """The last ``count`` blocks, at most all."""
    return tuple(range(max(depth - count, 0), depth))


def feature_maps(
    backbone: VisionTransformer, images: Tensor, layers: Sequence[int], *, norm: bool = True
) -> list[tuple[Tensor, Tensor]]:
    """Outputs of the blocks ``layers`` (from 0, rising).

    Args:
        images: ``[B, 3, H, W]``, normalised.
        norm: pass each through the backbone's last norm.

    Returns:
        A pair a layer: patches ``[B, D, H/p, W/p]`` and class tokens ``[B, D]``.

    Raises:
        UserError: a side is not a multiple of the patch size.
    """
    patch, first = backbone.config.patch, 1 + backbone.config.registers
    check_sides(images.shape[-2], images.shape[-1], patch)
    rows, columns = images.shape[-2] // patch, images.shape[-1] // patch
    x, layout = pack([backbone.embed(images)])
    found = {}
    for index, block in enumerate(backbone.blocks[: max(layers) + 1]):
        x = block(x, layout)
        if index in layers:
            tokens = layout.split(backbone.norm(x) if norm else x)[0]
            patches = tokens[:, first:].transpose(1, 2).reshape(len(images), -1, rows, columns)
            found[index] = (patches, tokens[:, 0])
    # A backbone of three blocks gives one of them twice to heads that take four.
    return [found[index] for index in layers]


def check_sides(height: int, width: int, patch: int) -> None:
    """UserError unless both sides are multiples of the patch size."""
    if height % patch or width % patch or not height or not width:
        near = [max(round(side / patch), 1) * patch for side in (height, width)]
        raise UserError(
            f"{height} × {width} pixels are not a multiple of the patch size {patch}",
            todo=f"use {near[0]} × {near[1]}",
        )


def check_maps(maps: Tensor, *, where: str) -> None:
    """UserError that names the picture where its features, or what a head made of them, are not finite."""
    if not torch.isfinite(maps).all():
        todo = "the weights are broken or overflow: load them in float32 and look at this picture"
        raise UserError("features are not finite", where=where, todo=todo)


def join(maps: Sequence[tuple[Tensor, Tensor]], *, cls: bool) -> Tensor:
    """One map of all layers' channels; with ``cls``, each layer's class token stands beside every patch.

    ``[B, L · D, h, w]``, or ``[B, L · 2 · D, h, w]``.
    """
    parts = []
    for patches, token in maps:
        parts.append(patches)
        if cls:
            parts.append(token[:, :, None, None].expand_as(patches))
    return torch.cat(parts, dim=1)


def resize(maps: Tensor, height: int, width: int) -> Tensor:
    """Bilinear, corners not aligned. ``[B, C, h, w] → [B, C, height, width]``."""
    if maps.shape[-2:] == (height, width):
        return maps
    return F.interpolate(maps.float(), size=(height, width), mode="bilinear", align_corners=False)
