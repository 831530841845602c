"""Which images a step sees: a function of the seed and the step, in constant memory, for any number of images.

Every epoch is a permutation of the whole index, computed and not stored: a Feistel network over the next power of four,
walked until it lands inside (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002). So position 10⁹ costs
what position 0 does, a run resumes at once, and no window of open shards limits how well images mix. The price is one
ranged read an image, which our shards' exact offsets allow; how bytes are read does not belong here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 6


@dataclass(frozen=True)
class Sampler:
    """The global batch of a step, and the slice of it that is this process's.

    Epochs follow each other without a gap: a batch that an epoch cannot fill is filled from the next one.
    """

    count: int
    """images in the index"""
    batch: int
    """images of a step over all processes; divisible by ``world``"""
    seed: int
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if self.count < self.batch:
            raise ValueError(f"{self.count} images are fewer than one batch of {self.batch}")
        if self.batch % self.world:
            raise ValueError(f"a batch of {self.batch} cannot be split evenly among {self.world} processes")

    @property
    def rows(self) -> range:
        """This process's part of the global batch, as positions in it."""
        share = self.batch // self.world
        return range(self.rank * share, (self.rank + 1) * share)

    def indices(self, step: int, rows: range | None = None) -> NDArray[np.int64]:
        """The images at ``rows`` (this process's where left out) of step ``step``: ``[len(rows)]``."""
        rows = self.rows if rows is None else rows
        wanted = step * self.batch + np.arange(rows.start, rows.stop)
        epochs = wanted // self.count
        found = np.empty(len(wanted), dtype=np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            found[here] = permuted(wanted[here] % self.count, self.count, (self.seed, int(epoch)))
        return found


def permuted(positions: NDArray[np.int64], count: int, key: tuple[int, ...]) -> NDArray[np.int64]:
    """The images at ``positions`` of a pseudo-random permutation of ``range(count)`` that ``key`` names."""
    half = max(1, (max(count - 1, 1).bit_length() + 1) // 2)
    keys = np.random.SeedSequence(list(key)).generate_state(_ROUNDS, np.uint64).astype(np.uint64)
    out = _feistel(positions.astype(np.uint64), half, keys)
    while (outside := out >= count).any():
        out[outside] = _feistel(out[outside], half, keys)
    return out.astype(np.int64)


def _feistel(values: NDArray[np.uint64], half: int, keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """One pass of the network over numbers of ``2 · half`` bits."""
    shift, mask = np.uint64(half), np.uint64((1 << half) - 1)
    left, right = values >> shift, values & mask
    for key in keys:
        left, right = right, left ^ (_mixed(right ^ key) & mask)
    return (left << shift) | right


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014); products wrap round."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
