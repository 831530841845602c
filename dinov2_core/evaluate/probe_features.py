"""The features that every classification protocol shares, through the cache: one pass over a split, then none.

Spread over local processes, or over the ranks of a ``torchrun`` where that is what started this program.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from dinov2_core import config
from dinov2_core.evaluate import cache as caches
from dinov2_core.evaluate.cache import FeatureCache
from dinov2_core.evaluate.datasets.labelled import Picture, Split
from dinov2_core.evaluate.model import EvalModel
from dinov2_core.evaluate.protocol import Context


@dataclass(frozen=True)
class ProbeFeatures:
    """``cls [N, L, D]``: class tokens of the last blocks, the last one last; ``mean [N, D]``: the last mean patch."""

    cls: NDArray[np.float32]
    mean: NDArray[np.float32]

    @property
    def last(self) -> NDArray[np.float32]:
        """``[N, D]``: the class token of the last block."""
        return np.ascontiguousarray(self.cls[:, -1])


def probe_features(model: EvalModel, split: Split, context: Context) -> ProbeFeatures:
    """The split's features, from the cache or computed into it.

    Raises:
        UserError: an image that cannot be read (named), or features that are not finite.
    """
    cache = context.cache
    preprocessing: dict[str, Any] = {**_plain(model), "resize": model.resize}
    key = {"weights": model.digest, "preprocessing": preprocessing, "images": split.digest(), "kind": "probe"}
    folder = cache.folder(**key)
    found = cache.read(folder)
    if found is None:
        found = _extract(model, split, context, folder, key)
    return ProbeFeatures(found["cls"], found["mean"])


def squares(model: EvalModel, pictures: Sequence[Picture]) -> torch.Tensor:
    """Decoded, resized and cut: ``[B, 3, S, S]`` uint8."""
    with ThreadPoolExecutor(2) as pool:
        return torch.from_numpy(np.stack(list(pool.map(lambda p: model.square(p.pixels()), pictures))))


def _plain(model: EvalModel) -> dict[str, Any]:
    plain = config.to_plain(model.preprocessing)
    assert isinstance(plain, dict), "a dataclass"
    return plain


def _extract(
    model: EvalModel, split: Split, context: Context, folder: Path, key: dict[str, Any]
) -> dict[str, NDArray[np.float32]]:
    dim, layers = model.backbone.config.dim, min(4, model.backbone.config.depth)
    shapes = {"cls": (len(split), layers, dim), "mean": (len(split), dim)}
    task = (context.cache, folder, shapes, model, split, context.batch)
    if dist.is_available() and dist.is_initialized():
        if dist.get_rank() == 0:
            caches.begin(folder, shapes)
        dist.barrier()
        _share(*task, (dist.get_rank(), dist.get_world_size()))
        dist.barrier()
        found = context.cache.finish(folder, key) if dist.get_rank() == 0 else None
        dist.barrier()
        found = found or context.cache.read(folder)
        assert found is not None, "rank 0 has finished it"
        return found
    if context.processes > 1:
        caches.begin(folder, shapes)
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(context.processes, mp_context=spawn) as pool:
            shares = [(i, context.processes) for i in range(context.processes)]
            for done in [pool.submit(_share, *task, share) for share in shares]:
                done.result()
    else:
        _share(*task, (0, 1))
    return context.cache.finish(folder, key)


def _share(
    cache: FeatureCache,
    folder: Path,
    shapes: dict[str, tuple[int, ...]],
    model: EvalModel,
    split: Split,
    batch: int,
    share: tuple[int, int],
) -> None:
    if share[1] > 1 and not dist.is_initialized():
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // share[1]))

    def compute(start: int, stop: int) -> dict[str, NDArray[np.float32]]:
        parts = []
        for first in range(start, stop, batch):
            pictures = split.pictures[first : min(first + batch, stop)]
            cls, mean = model.probe_features(squares(model, pictures))
            for values in (cls, mean):
                names = [p.name for p in pictures]
                caches.check_finite(values.numpy(), where=f"{model.name} on {split.name}", names=names)
            parts.append((cls, mean))
        return {"cls": torch.cat([p[0] for p in parts]).numpy(), "mean": torch.cat([p[1] for p in parts]).numpy()}

    cache.fill(folder, shapes, compute, label=f"features of {split.name}", share=share)
