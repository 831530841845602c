"""Batches from stored images: worker processes read, decode and crop ahead of the training; nothing is kept in memory.

The same seam as ``batches.PoolBatches``: the batch of a step is a pure function of it, for any number of workers and
processes. Where images lie is the :class:`Source`'s business (``images/index.py`` has one); this module knows bytes.

An image that does not decode is replaced by the next one of the index that does, so a batch is always whole and the
same for everybody; it is named with its reason in :attr:`StreamBatches.refused`.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dinov2_core.errors import UserError
from dinov2_core.images.decode import Refused, decode
from dinov2_core.train.augmentation import multi_crop, normalize
from dinov2_core.train.batches import masks_of, step_seed
from dinov2_core.train.image_crops import crop_image, enough_pixels, squashed
from dinov2_core.train.objective import Batch
from dinov2_core.train.recipe import Recipe
from dinov2_core.train.sampler import Sampler
from dinov2_core.train.views import draw

MAX_REFUSED_IN_A_ROW = 100
"""More images that follow each other and do not decode are not bad luck but a wrong folder."""


class Source(Protocol):
    """Encoded images by position. Workers get a pickled copy."""

    def __len__(self) -> int: ...

    def read(self, indices: Sequence[int]) -> list[bytes]:
        """The bytes of the images at ``indices``."""
        ...

    def name(self, index: int) -> str:
        """What the image is called in tables and messages."""
        ...


@dataclass(frozen=True)
class LoaderConfig:
    """How fast batches come; never what is in them."""

    workers: int = -1
    """processes; 0 loads in this one, -1 takes this process's share of the cores but one, 16 at most"""
    ahead: int = 2
    """chunks that each worker prepares ahead"""
    chunk: int = 32
    """images that a worker hands over at once"""

    def count(self, local_world: int = 1) -> int:
        """The number of workers, with ``local_world`` training processes on this machine."""
        if self.workers >= 0:
            return self.workers
        return min(16, max(1, len(os.sched_getaffinity(0)) // local_world - 1))


class Chunk(NamedTuple):
    """Some images of one step, image by image."""

    global_crops: Tensor
    """``[n, 2, 3, G, G]`` uint8; where the device crops, the squashed images ``[n, 3, S, S]``"""
    local_crops: Tensor
    """``[n, n_local, 3, L, L]`` uint8; empty where the device crops"""
    masks: Tensor
    """``[2n, N]``, crop 1 of each image first"""
    sizes: NDArray[np.int64]
    """``[n, 2]``: height and width as decoded"""
    ids: NDArray[np.int64]
    refused: list[tuple[int, str]]
    error: UserError | None = None


class Chunks(Dataset[Chunk]):
    """Chunks by ``(step, start, stop)``: what workers compute. ``start`` and ``stop`` are rows of the global batch."""

    def __init__(self, source: Source, recipe: Recipe, sampler: Sampler) -> None:
        self.source, self.recipe, self.sampler = source, recipe, sampler

    def __getitem__(self, key: tuple[int, int, int]) -> Chunk:
        try:
            return self._made(key[0], range(key[1], key[2]))
        except UserError as error:
            # DataLoader would hand on its own text of the exception.
            nothing = torch.empty(0)
            return Chunk(nothing, nothing, nothing, np.empty((0, 2), np.int64), np.empty(0, np.int64), [], error)

    def _made(self, step: int, rows: range) -> Chunk:
        crops, seed = self.recipe.crops, step_seed(self.recipe.seed, step, "views")
        wanted = self.sampler.indices(step, rows).tolist()
        made: list[tuple[Tensor, Tensor]] = []
        refused: list[tuple[int, str]] = []
        ids: list[int] = []
        sizes: list[tuple[int, ...]] = []
        for row, index, data in zip(rows, wanted, self.source.read(wanted), strict=True):
            found, pixels = self._decoded(index, data, refused)
            ids.append(found)
            sizes.append(pixels.shape[:2])
            if crops.squash:
                made.append((squashed(pixels, crops.squash), torch.empty(0)))
            else:
                views = draw(crops, seed, range(row, row + 1), np.array([pixels.shape[:2]]))
                made.append(crop_image(pixels, views[0], crops))
        one, two = (torch.stack(parts) for parts in zip(*made, strict=True))
        masks = masks_of(self.recipe, step, rows)
        return Chunk(one, two, masks, np.array(sizes, np.int64), np.array(ids, np.int64), refused)

    def _decoded(self, index: int, data: bytes, refused: list[tuple[int, str]]) -> tuple[int, NDArray[np.uint8]]:
        """``(index, pixels)`` of the image, or of the first after it that decodes."""
        enough = self.recipe.crops.squash**2 or enough_pixels(self.recipe.crops)
        for _ in range(MAX_REFUSED_IN_A_ROW):
            found = decode(data, enough=enough)
            if not isinstance(found, Refused):
                return index, found.pixels
            refused.append((index, found.reason))
            index = (index + 1) % len(self.source)
            (data,) = self.source.read([index])
        raise UserError(
            f"{MAX_REFUSED_IN_A_ROW} images in a row do not decode, the last: {refused[-1][1]}",
            where=self.source.name(refused[-1][0]),
            todo="look at the data",
        )


class StreamBatches:
    """Batches from a :class:`Source`, in order and ahead of time; any step may be asked for."""

    def __init__(
        self,
        source: Source,
        recipe: Recipe,
        config: LoaderConfig = LoaderConfig(),
        *,
        rank: int = 0,
        world: int = 1,
        local_world: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        """
        Raises:
            ValueError: fewer images than one batch, or a batch that the processes cannot share.
        """
        self.source, self.recipe, self.config = source, recipe, config
        self.device = torch.device(device)
        self.sampler = Sampler(len(source), recipe.batch, recipe.seed, rank, world)
        self.workers = config.count(local_world)
        self.refused: dict[int, str] = {}
        """Position → reason, of every image met so far that did not decode."""
        self._chunks: Iterator[Chunk] | None = None
        self._next = -1

    def names(self, ids: Sequence[int]) -> list[str]:
        """What the images at positions ``ids`` are called."""
        return [self.source.name(i) for i in ids]

    def __call__(self, step: int) -> Batch:
        if self._chunks is None or step != self._next:
            self.close()
            self._chunks = self._started(step)
        rows = self.sampler.rows
        parts: list[Chunk] = []
        while sum(part.ids.size for part in parts) < len(rows):
            parts.append(self._take(self._chunks))
        self._next = step + 1
        return self._batch(step, parts)

    def close(self) -> None:
        """End the workers."""
        # DataLoader's iterator ends its processes when it is let go.
        self._chunks, self._next = None, -1

    def _take(self, chunks: Iterator[Chunk]) -> Chunk:
        try:
            chunk = next(chunks)
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise UserError(
                f"a process that loads images died ({error})",
                todo="run the same command again; fewer workers need less memory, and /dev/shm must hold their batches",
            ) from error
        if chunk.error is not None:
            raise chunk.error
        self.refused.update(chunk.refused)
        return chunk

    def _started(self, step: int) -> Iterator[Chunk]:
        keys = _Keys(step, self.recipe.steps, self.sampler.rows, self.config.chunk)
        context = None
        if self.workers:
            # Threads and fork do not mix; the server starts clean and imports torch once for all workers.
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload([__name__])
        return iter(
            DataLoader(
                Chunks(self.source, self.recipe, self.sampler),
                batch_size=None,
                sampler=keys,
                num_workers=self.workers,
                prefetch_factor=self.config.ahead if self.workers else None,
                multiprocessing_context=context,
                worker_init_fn=_start_worker,
                collate_fn=_as_it_is,
            )
        )

    def _batch(self, step: int, parts: list[Chunk]) -> Batch:
        crops, count = self.recipe.crops, len(self.sampler.rows)
        ids = torch.from_numpy(np.concatenate([part.ids for part in parts]))
        masks = torch.cat([part.masks.unflatten(0, (2, -1)) for part in parts], dim=1).flatten(0, 1)
        if crops.squash:
            images = torch.cat([part.global_crops for part in parts]).to(self.device, non_blocking=True)
            sizes = np.concatenate([part.sizes for part in parts])
            views = draw(crops, step_seed(self.recipe.seed, step, "views"), self.sampler.rows, sizes)
            # Drawn in the image's own pixels, so that aspects are true; cut from the square that it was squashed to.
            scale = crops.squash / sizes[:, None, [0, 1, 0, 1]]
            global_crops, local_crops = multi_crop(images, views.scaled(scale), crops)
        else:
            both = [
                torch.cat([getattr(part, name) for part in parts]).to(self.device, non_blocking=True)
                for name in ("global_crops", "local_crops")
            ]
            global_crops, local_crops = (
                normalize(crop.transpose(0, 1).flatten(0, 1).float().div_(255), crops) for crop in both
            )
        assert len(ids) == count
        return Batch(global_crops, local_crops, masks, ids)


class _Keys:
    """What the workers are asked for, in order."""

    def __init__(self, start: int, steps: int, rows: range, chunk: int) -> None:
        self.start, self.steps, self.rows, self.chunk = start, steps, rows, chunk

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        for step in range(self.start, max(self.steps, self.start + 1)):
            for first in range(self.rows.start, self.rows.stop, self.chunk):
                yield step, first, min(first + self.chunk, self.rows.stop)

    def __len__(self) -> int:
        return max(self.steps - self.start, 1) * -(-len(self.rows) // self.chunk)


def _as_it_is(chunk: Any) -> Any:
    return chunk


def _start_worker(worker: int) -> None:
    # Who ends the training tells its main process; that ends these, after it has saved.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
