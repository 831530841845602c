"""Which patches of the global crops are masked (iBOT's block masks, with exact ratios)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dinov2_core.train.recipe import MaskConfig

_MIN_BLOCK = 4
_MIN_ASPECT = 0.3
_TRIES = 10


def draw_masks(
    crops: int, rows: int, columns: int, masks: MaskConfig, seed: int, chosen: NDArray[np.int64] | None = None
) -> NDArray[np.bool_]:
    """Masks of the global crops at ``chosen`` (all where left out) of a batch of ``crops``: ``[n, rows · columns]``.

    ``int(crops · probability)`` crops are masked. Their ratios are stratified: the range is cut in as many bins and a
    ratio drawn from each, so a batch covers the range evenly. Each mask has ``round(ratio · N)`` patches exactly. It is
    a function of the seed and its crop, so several processes draw their parts of one batch.
    """
    rng = np.random.default_rng(seed)
    count = int(crops * masks.probability)
    edges = np.linspace(*masks.ratio, count + 1)
    targets = np.zeros(crops, dtype=np.int64)
    ratios = rng.uniform(edges[:-1], edges[1:])
    targets[rng.permutation(crops)[:count]] = [round(ratio * rows * columns) for ratio in ratios]
    chosen = np.arange(crops) if chosen is None else chosen
    out = np.zeros((len(chosen), rows * columns), dtype=bool)
    for mask, crop in zip(out, chosen.tolist(), strict=True):
        if targets[crop]:
            mask[:] = block_mask(rows, columns, int(targets[crop]), np.random.default_rng([seed, crop])).ravel()
    return out


def block_mask(rows: int, columns: int, target: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """``[rows, columns]`` bool with exactly ``target`` True, in rectangles of aspect 0.3 to 1/0.3.

    The reference stops after ten rectangles that do not fit and so undershoots; here single patches fill up the rest.
    """
    mask = np.full((rows, columns), target == rows * columns)
    missing, failed = target - int(mask.sum()), 0
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
