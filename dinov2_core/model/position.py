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


def interpolate_by_matrices(
    pos_embed: Tensor, rows: Tensor, columns: Tensor, *, offset: float, antialias: bool
) -> Tensor:
    """:func:`interpolate` from plain arithmetic, for graphs in which the grid is known only when they run.

    Exported graphs have no resize operator that gives torch's numbers in both flavours; two matrix products do.

    Args:
        rows, columns: 1-d tensors ``0, 1, …``, one number a row and a column of patches.

    Returns:
        ``[1, 1 + rows·columns, D]`` float32.
    """
    grid = math.isqrt(pos_embed.shape[1] - 1)
    patches = pos_embed[0, 1:].float().reshape(grid, grid, -1)
    # At the stored grid the positions are used as they are, which an offset would prevent.
    stored = (rows[-1] + 1 == grid) & (columns[-1] + 1 == grid)
    added = torch.where(stored, 0.0, offset)
    down = _bicubic(rows, grid, added, antialias=antialias)
    across = _bicubic(columns, grid, added, antialias=antialias)
    resized = torch.einsum("rg,ghd,ch->rcd", down, patches, across)
    return torch.cat([pos_embed[:, :1].float(), resized.flatten(0, 1)[None]], dim=1)


def _bicubic(index: Tensor, grid: int, offset: Tensor, *, antialias: bool) -> Tensor:
    """``[n, grid]``: the weight of each stored position in each of n resized ones, as ``F.interpolate`` has them."""
    index = index.float()
    step = grid / (index[-1] + 1 + offset)
    centre = (index + 0.5) * step
    stored = torch.arange(grid, device=index.device)
    if antialias:
        # The kernel widens with the step when positions are thinned out, and is cut off and rescaled at the border.
        distance = (stored + 0.5 - centre[:, None]) / step.clamp(min=1)
        weights = _cubic(distance, -0.5)
        return weights / weights.sum(dim=1, keepdim=True)
    # Four neighbours; those outside the grid count for the border.
    first = torch.floor(centre - 0.5)
    taps = first[:, None] + torch.arange(-1, 3, device=index.device)
    weights = _cubic(taps + 0.5 - centre[:, None], -0.75)
    hits = taps.clamp(0, grid - 1)[:, :, None] == stored
    return (weights[:, :, None] * hits).sum(dim=1)


def _cubic(distance: Tensor, a: float) -> Tensor:
    """Keys's cubic convolution kernel (IEEE TASSP 29:1153, 1981) with parameter ``a``; zero from 2 on."""
    x = distance.abs()
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * (x**3 - 5 * x**2 + 8 * x - 4)
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def sines(grid: int, dim: int) -> Tensor:
    """Sines and cosines of row and column at wavelengths from 2π to 20,000π patches: ``[grid · grid, dim]``."""
    if dim % 4:
        raise ValueError(f"width {dim} is not a multiple of 4")
    omega = 10_000.0 ** -(torch.arange(dim // 4) / (dim // 4))
    phase = torch.arange(grid)[:, None] * omega
    waves = torch.cat([phase.sin(), phase.cos()], dim=1)
    rows, columns = waves[:, None].expand(-1, grid, -1), waves[None].expand(grid, -1, -1)
    return torch.cat([rows, columns], dim=-1).flatten(0, 1)
