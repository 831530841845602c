"""Which patches of the global crops are masked (iBOT's block masks, with exact ratios)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dinov2_core.train.recipe import MaskConfig

_MIN_BLOCK = 4
_MIN_ASPECT = 0.3
_TRIES = 10


def draw_masks(crops: int, rows: int, columns: int, masks: MaskConfig, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Masks of one batch: ``[crops, rows · columns]`` bool.

    ``int(crops · probability)`` crops are masked. Their ratios are stratified: the range is cut in as many bins and one
    ratio drawn from each, so a batch covers the range evenly. Each mask has ``round(ratio · N)`` patches exactly.
    """
    count = int(crops * masks.probability)
    out = np.zeros((crops, rows * columns), dtype=bool)
    edges = np.linspace(*masks.ratio, count + 1)
    ratios = rng.uniform(edges[:-1], edges[1:])
    for crop, ratio in zip(rng.permutation(crops)[:count], ratios, strict=True):
        out[crop] = block_mask(rows, columns, round(ratio * rows * columns), rng).ravel()
    return out


def block_mask(rows: int, columns: int, target: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """``[rows, columns]`` bool with exactly ``target`` True, in rectangles of aspect 0.3 to 1/0.3.

    The reference stops after ten rectangles that do not fit and so undershoots; here single patches fill up the rest.
    """
    mask = np.zeros((rows, columns), dtype=bool)
    missing, failed = target, 0
    while missing >= _MIN_BLOCK and failed < _TRIES:
        area = rng.uniform(_MIN_BLOCK, missing)
        aspect = math.exp(rng.uniform(math.log(_MIN_ASPECT), -math.log(_MIN_ASPECT)))
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        failed += 1
        if not (0 < height <= rows and 0 < width <= columns):
            continue
        top, left = rng.integers(rows - height + 1), rng.integers(columns - width + 1)
        block = mask[top : top + height, left : left + width]
        fresh = block.size - int(block.sum())
        if 0 < fresh <= missing:
            block[:] = True
            missing, failed = missing - fresh, 0
    if missing:
        free = np.flatnonzero(~mask)
        mask.flat[rng.choice(free, missing, replace=False)] = True
    return mask
