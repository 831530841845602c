"""The batch of any step, as a function of the seed and the step alone.

Nothing has to be stored to resume: step 1,000 is the same whether or not the 999 before it ran in this process.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dinov2_core.train.augmentation import multi_crop
from dinov2_core.train.masking import draw_masks
from dinov2_core.train.objective import Batch
from dinov2_core.train.recipe import Recipe


def step_seed(seed: int, step: int, stream: str) -> int:
    """A seed for one use (``stream``) at one step; different uses are independent."""
    words = [seed, step, *stream.encode()]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> 1)


@dataclass(frozen=True)
class PoolBatches:
    """Batches from a pool of images in memory: every epoch a new order, incomplete batches filled from the next."""

    pool: Tensor
    """``[N, 3, S, S]`` uint8, S at least the recipe's global crop size"""
    recipe: Recipe

    def __post_init__(self) -> None:
        if len(self.pool) < self.recipe.batch:
            raise ValueError(f"{len(self.pool)} images are fewer than one batch of {self.recipe.batch}")

    def indices(self, step: int) -> NDArray[np.int64]:
        """``[B]``: which images step ``step`` sees."""
        count, batch = len(self.pool), self.recipe.batch
        wanted = np.arange(step * batch, (step + 1) * batch)
        orders = {e: self._order(e) for e in sorted({int(e) for e in wanted // count})}
        return np.array([orders[int(w) // count][w % count] for w in wanted], dtype=np.int64)

    def _order(self, epoch: int) -> NDArray[np.int64]:
        return np.random.default_rng([self.recipe.seed, epoch]).permutation(len(self.pool))

    def __call__(self, step: int) -> Batch:
        recipe = self.recipe
        ids = torch.from_numpy(self.indices(step))
        generator = torch.Generator().manual_seed(step_seed(recipe.seed, step, "crops"))
        global_crops, local_crops = multi_crop(self.pool[ids], recipe.crops, generator)
        grid = recipe.crops.global_size // recipe.model.patch
        rng = np.random.default_rng(step_seed(recipe.seed, step, "masks"))
        masks = torch.from_numpy(draw_masks(len(global_crops), grid, grid, recipe.masks, rng))
        return Batch(global_crops, local_crops, masks, ids)
