"""Which way images reach the training: held in memory where they are few and small, else read ahead by workers."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from dinov2_core.errors import UserError
from dinov2_core.images.decode import Refused, probe
from dinov2_core.images.index import ImageIndex
from dinov2_core.images.pool import load_pool
from dinov2_core.train.batches import PoolBatches
from dinov2_core.train.loader import LoaderConfig, StreamBatches
from dinov2_core.train.recipe import Recipe

POOL_BYTES = 1 << 30
"""What a pool of pixels may take of memory before images are read as they are needed."""
_LARGER = 1.5
"""How much larger than the model's input pictures may be for squares of that input to stand for them."""
_PROBED = 200


@dataclass(frozen=True)
class Place:
    """This process among those that train together."""

    rank: int = 0
    world: int = 1
    local_world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


@dataclass(frozen=True)
class TrainingData:
    """The batches and what became of the images."""

    batches: PoolBatches | StreamBatches
    how: str
    """one line for people"""
    images: int
    """that can be drawn; where they are streamed, some may turn out not to decode"""
    pool_refused: dict[str, str]

    def refused(self) -> dict[str, str]:
        """Name → reason, of every image met so far that does not decode."""
        if isinstance(self.batches, PoolBatches):
            return self.pool_refused
        found = self.batches.refused
        return dict(zip(self.batches.names(list(found)), found.values(), strict=True))


def open_data(
    index: ImageIndex,
    recipe: Recipe,
    *,
    prepared_size: int = 0,
    loader: LoaderConfig = LoaderConfig(),
    place: Place = Place(),
    where: str = "training",
) -> TrainingData:
    """Batches of ``recipe`` from the images of ``index``.

    Args:
        prepared_size: hold all images in memory as squares of this side; 0 lets their number and size decide.

    Raises:
        UserError: fewer images than one batch, or a batch that the processes cannot share.
    """
    side = prepared_size or (recipe.model.image_size if worth_holding(index, recipe) else 0)
    try:
        if side:
            return _held(index, recipe, side, place, where)
        batches = StreamBatches(
            index,
            recipe,
            loader,
            rank=place.rank,
            world=place.world,
            local_world=place.local_world,
            device=place.device,
        )
        how = f"{len(index)} images, read as they are needed by {batches.workers} workers"
        return TrainingData(batches, how, len(index), {})
    except ValueError as error:
        raise UserError(str(error), where=where, todo="give more images, or set batch=…") from error


def worth_holding(index: ImageIndex, recipe: Recipe) -> bool:
    """Whether the images fit into memory as squares of the model's input, and lose little by it.

    The second is judged by up to 200 of them, evenly chosen: squares of the input keep no detail of larger photos.
    """
    side = recipe.model.image_size
    if len(index) * 3 * side**2 > POOL_BYTES:
        return False
    chosen = np.unique(np.linspace(0, len(index) - 1, min(_PROBED, len(index))).round().astype(np.int64)).tolist()
    seen = [probe(data) for data in index.read(chosen)]
    longer = [max(one.width, one.height) for one in seen if not isinstance(one, Refused)]
    return bool(longer) and float(np.median(longer)) <= _LARGER * side


def _held(index: ImageIndex, recipe: Recipe, side: int, place: Place, where: str) -> TrainingData:
    rows = [index.location(i) for i in range(len(index))]
    pool = load_pool(index.store, rows, side, label=f"{where}: reading images")
    refused = {index.name(i): reason for i, reason in pool.refused}
    if len(pool.kept) < recipe.batch:
        raise ValueError(f"{len(pool.kept)} usable images are fewer than one batch of {recipe.batch}")
    kept = pool.kept.tolist()
    batches = PoolBatches(
        torch.from_numpy(pool.pixels),
        recipe,
        rank=place.rank,
        world=place.world,
        names=lambda position: index.name(kept[position]),
    )
    how = f"{len(kept)} images, held in memory as squares of {side} pixels"
    return TrainingData(batches, how, len(kept), refused)
