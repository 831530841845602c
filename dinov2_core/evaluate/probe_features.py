"""The features that every protocol on pictures shares, through the cache: one pass over a split, then none."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dinov2_core import config
from dinov2_core.evaluate import cache as caches
from dinov2_core.evaluate.datasets.labelled import Picture, Split
from dinov2_core.evaluate.extraction import extracted
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
    preprocessing: dict[str, Any] = {**_plain(model), "resize": model.resize}
    key = {"weights": model.digest, "preprocessing": preprocessing, "images": split.digest(), "kind": "probe"}
    dim, layers = model.backbone.config.dim, min(4, model.backbone.config.depth)
    shapes = {"cls": (len(split), layers, dim), "mean": (len(split), dim)}
    compute = partial(_compute, model, split, context.batch)
    found = extracted(context, key, shapes, compute, label=f"features of {split.name}")
    return ProbeFeatures(found["cls"], found["mean"])


def squares(model: EvalModel, pictures: Sequence[Picture]) -> torch.Tensor:
    """Decoded, resized and cut: ``[B, 3, S, S]`` uint8."""
    with ThreadPoolExecutor(2) as pool:
        return torch.from_numpy(np.stack(list(pool.map(lambda p: model.square(p.pixels()), pictures))))


def _plain(model: EvalModel) -> dict[str, Any]:
    plain = config.to_plain(model.preprocessing)
    assert isinstance(plain, dict), "a dataclass"
    return plain


def _compute(model: EvalModel, split: Split, batch: int, start: int, stop: int) -> dict[str, NDArray[np.float32]]:
    parts = []
    for first in range(start, stop, batch):
        pictures = split.pictures[first : min(first + batch, stop)]
        cls, mean = model.probe_features(squares(model, pictures))
        for values in (cls, mean):
            names = [p.name for p in pictures]
            caches.check_finite(values.numpy(), where=f"{model.name} on {split.name}", names=names)
        parts.append((cls, mean))
    return {"cls": torch.cat([p[0] for p in parts]).numpy(), "mean": torch.cat([p[1] for p in parts]).numpy()}
