"""Learned position embeddings at any grid, in both released flavours."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def interpolate(pos_embed: Tensor, rows: int, columns: int, *, square: bool, offset: float, antialias: bool) -> Tensor:
    """Positions for a grid of ``rows × columns`` patches.

    The models without registers were trained with a scale factor of ``(side + 0.1) / grid`` and no antialiasing, those
    with registers with an explicit size and antialiasing; features agree with the released ones only when this does.

    Args:
        pos_embed: ``[1, 1 + G·G, D]``, the class token's slot first.
        square: whether the image is square; the stored grid is used as it is only then.
        offset: added to each side; 0 gives the size-based flavour.

    Returns:
        ``[1, 1 + rows·columns, D]`` in the dtype of ``pos_embed``; computed in float32.
    """
    count = pos_embed.shape[1] - 1
    if rows * columns == count and square:
        return pos_embed
    grid = math.isqrt(count)
    if grid * grid != count:
        raise ValueError(f"{count} stored positions are not a square grid")
    patches = pos_embed[:, 1:].float().reshape(1, grid, grid, -1).permute(0, 3, 1, 2)
    if offset:
        factors = ((rows + offset) / grid, (columns + offset) / grid)
        patches = F.interpolate(patches, scale_factor=factors, mode="bicubic", antialias=antialias)
    else:
        patches = F.interpolate(patches, size=(rows, columns), mode="bicubic", antialias=antialias)
    if patches.shape[-2:] != (rows, columns):
        raise ValueError(f"interpolation gave {tuple(patches.shape[-2:])}, not {(rows, columns)}")
    flat = patches.flatten(2).transpose(1, 2).to(pos_embed.dtype)
    return torch.cat([pos_embed[:, :1], flat], dim=1)


def sines(grid: int, dim: int) -> Tensor:
    """Sines and cosines of row and column at wavelengths from 2π to 20,000π patches: ``[grid · grid, dim]``."""
    if dim % 4:
        raise ValueError(f"width {dim} is not a multiple of 4")
    omega = 10_000.0 ** -(torch.arange(dim // 4) / (dim // 4))
    phase = torch.arange(grid)[:, None] * omega
    waves = torch.cat([phase.sin(), phase.cos()], dim=1)
    rows, columns = waves[:, None].expand(-1, grid, -1), waves[None].expand(grid, -1, -1)
    return torch.cat([rows, columns], dim=-1).flatten(0, 1)
