"""The batch of any step, as a function of the seed and the step alone; and batches of images held in memory.

Nothing has to be stored to resume: step 1,000 is the same whether or not the 999 before it ran in this process. The
global batch does not depend on the number of processes either; each takes its rows of it. Images that do not fit into
memory are read by ``loader``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dinov2_core.train.augmentation import multi_crop
from dinov2_core.train.masking import draw_masks
from dinov2_core.train.objective import Batch
from dinov2_core.train.recipe import Recipe
from dinov2_core.train.sampler import Sampler
from dinov2_core.train.views import draw


def step_seed(seed: int, step: int, stream: str) -> int:
    """A seed for one use (``stream``) at one step; different uses are independent."""
    words = [seed, step, *stream.encode()]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> 1)


def masks_of(recipe: Recipe, step: int, rows: range) -> Tensor:
    """The masks of the images at ``rows`` of the global batch: ``[2n, N]`` bool, crop 1 of each image first."""
    grid = recipe.crops.global_size // recipe.model.patch
    seed = step_seed(recipe.seed, step, "masks")
    own = np.arange(rows.start, rows.stop)
    chosen = np.concatenate([own, own + recipe.batch])
    return torch.from_numpy(draw_masks(2 * recipe.batch, grid, grid, recipe.masks, seed, chosen))


class PoolBatches:
    """Batches from images in memory, cropped on the pool's device: every epoch a new order, none of them cut short."""

    def __init__(
        self, pool: Tensor, recipe: Recipe, *, rank: int = 0, world: int = 1, names: Callable[[int], str] = str
    ) -> None:
        """
        Args:
            pool: ``[N, 3, S, S]`` uint8.
            names: what the image at a position is called in messages.

        Raises:
            ValueError: fewer images than one batch, or a batch that the processes cannot share.
        """
        self.pool, self.recipe = pool, recipe
        self.sampler = Sampler(len(pool), recipe.batch, recipe.seed, rank, world)
        self._names = names

    def indices(self, step: int) -> NDArray[np.int64]:
        """``[B]``: which images this process sees at ``step``."""
        return self.sampler.indices(step)

    def names(self, ids: Sequence[int]) -> list[str]:
        """What the images at positions ``ids`` are called."""
        return [self._names(i) for i in ids]

    def __call__(self, step: int) -> Batch:
        recipe, rows = self.recipe, self.sampler.rows
        ids = torch.from_numpy(self.indices(step))
        images = self.pool[ids]
        side = self.pool.shape[-1]
        views = draw(recipe.crops, step_seed(recipe.seed, step, "views"), rows, np.full((len(rows), 2), side))
        global_crops, local_crops = multi_crop(images, views, recipe.crops)
        return Batch(global_crops, local_crops, masks_of(recipe, step, rows), ids)

    def close(self) -> None:
        """Nothing to end: what it shares with the loader."""
