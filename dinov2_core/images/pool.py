"""Many stored images as one array of equal squares, in memory: what small-scale training and evaluation read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinov2_core.images.decode import Refused, decode
from dinov2_core.images.shards import read_images
from dinov2_core.model.preprocessing import square
from dinov2_core.progress import track
from dinov2_core.storage import Store


@dataclass(frozen=True)
class Pool:
    """``pixels [N, 3, S, S]`` uint8; ``kept [N]``: their rows; ``refused``: (row, reason) of what did not decode."""

    pixels: NDArray[np.uint8]
    kept: NDArray[np.int64]
    refused: tuple[tuple[int, str], ...]


def load_pool(store: Store, rows: Sequence[Mapping[str, Any]], size: int, *, label: str = "reading images") -> Pool:
    """Read, decode and square the images at ``rows`` (``shard``, ``offset``, ``length``), in their order."""
    pixels = np.empty((len(rows), 3, size, size), np.uint8)
    kept: list[int] = []
    refused: list[tuple[int, str]] = []
    # Shard by shard, forwards: one open file at a time.
    order = sorted(range(len(rows)), key=lambda i: (rows[i]["shard"], rows[i]["offset"]))
    images = read_images(store, [rows[i] for i in order])
    for index, data in track(zip(order, images, strict=True), label, len(rows)):
        decoded = decode(data)
        if isinstance(decoded, Refused):
            refused.append((index, decoded.reason))
        else:
            pixels[index] = square(decoded.pixels, size)
            kept.append(index)
    chosen = np.array(sorted(kept), dtype=np.int64)
    return Pool(pixels if len(chosen) == len(rows) else pixels[chosen], chosen, tuple(sorted(refused)))
