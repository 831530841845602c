"""Nearest neighbours by cosine, exact or approximate, in blocks of bounded memory.

Similarities are computed pair by pair in float64, whoever nominates the pairs, so results do not depend on block size,
threads or device. What neighbours are used for does not belong here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Literal

import numpy as np
import torch

from dinov2_core.curation import search_faiss
from dinov2_core.curation.search_exact import BlockSearch, Lowered, Precision, lowered_block, pool_blocks, use_bfloat16
from dinov2_core.curation.search_pairs import Neighbours, pair_similarity, ranked
from dinov2_core.curation.vectors import Rows, rows_of
from dinov2_core.progress import Progress

__all__ = ["NeighbourSearch", "Neighbours", "choose", "measured_recall", "pair_similarity"]

Kind = Literal["exact", "flat", "ivf", "ivf-pq"]
EXACT_WORK = 1e16
"""Multiplications up to which search is exact by default: half a day of two cores, minutes of a GPU."""
KEEP = 512 << 20
"""Bytes, the default of ``keep``."""


@dataclass(frozen=True)
class NeighbourSearch:
    """Searches ``pool``, [M, D] with rows of unit length: a float32 array, or rows on disk.

    ``block`` queries are compared with four times as many pool rows at once, 16 bits a pair: with ``probes`` and the
    index of the approximate kinds, the only settings that memory depends on.

    Args:
        kind: ``exact``; or nominated by a Faiss index: ``flat`` (exact but for rounding), ``ivf``, ``ivf-pq``.
        precision: what ``exact`` multiplies in at first; the result is the same.
        device: of ``exact``: ``cpu`` or ``cuda``.
        probes: lists that the approximate kinds look into.
        keep: a pool that takes no more than this many bytes rounded is rounded once, a larger one for every block of
            queries.
    """

    pool: Rows
    block: int = 2048
    kind: Kind = "exact"
    precision: Precision = "auto"
    device: str = "cpu"
    probes: int = 32
    keep: int = KEEP
    _kept: dict[int, Lowered] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def rounded_bytes(self) -> int:
        """What the pool takes when it is kept."""
        return (2 if use_bfloat16(self.precision, self.device) else 4) * len(self.pool) * self.pool.shape[1]

    def above(self, queries: Rows, threshold: float, k: int, *, label: str = "") -> Neighbours:
        """The at most ``k`` pool rows of each query ([N, D]) with cosine over ``threshold``; ``label`` as in
        :meth:`stream`."""
        return Neighbours.joined(self.stream(queries, k, threshold, label=label))

    def top(self, queries: Rows, k: int) -> Neighbours:
        """The ``k`` nearest pool rows (all where the pool is smaller) of each query, [N, D]."""
        return Neighbours.joined(self.stream(queries, k))

    def stream(self, queries: Rows, k: int, threshold: float = -np.inf, *, label: str = "") -> Iterator[Neighbours]:
        """The neighbours of one block of queries after another; ``query`` counts from the first of all.

        ``label``: what progress is shown as; none where it is empty.
        """
        if not len(self.pool) or k < 1:
            return
        # One half of a block is multiplied while what the other half nominated is sorted, which takes one thread.
        abreast = 2 if self._on_threads and len(queries) > 1 else 1
        size = max(min(self.block, 65535, len(queries)) // abreast, 1)
        blocks = self._blocks(queries, k, threshold, abreast, size)
        if not label:
            yield from blocks
            return
        with Progress(label, len(queries)) as progress:
            for start, found in zip(range(0, len(queries), size), blocks, strict=True):
                progress.advance(min(size, len(queries) - start))
                yield found

    def _blocks(self, queries: Rows, k: int, threshold: float, abreast: int, size: int) -> Iterator[Neighbours]:
        search = partial(self._some, queries, size, k, threshold)
        starts = range(0, len(queries), size)
        if abreast == 1:
            yield from map(search, starts)
            return
        with ThreadPoolExecutor(abreast) as threads:
            ahead = deque(threads.submit(search, start) for start in starts[:abreast])
            for start in starts[abreast:]:
                yield ahead.popleft().result()
                ahead.append(threads.submit(search, start))
            while ahead:
                yield ahead.popleft().result()

    @property
    def _on_threads(self) -> bool:
        # A pool that is rounded for every block of queries is better read by whole blocks.
        return (
            self.kind == "exact"
            and self.device == "cpu"
            and torch.get_num_threads() > 1
            and self.rounded_bytes <= self.keep
        )

    def _some(self, queries: Rows, size: int, k: int, threshold: float, start: int) -> Neighbours:
        some = rows_of(queries, start, min(start + size, len(queries)))
        found = self._exact(some, k, threshold) if self.kind == "exact" else self._indexed(some, k, threshold)
        return Neighbours(found.query + start, found.pool, found.similarity)

    def _exact(self, queries: np.ndarray, k: int, threshold: float) -> Neighbours:
        search = BlockSearch(queries, self.pool, k=k, threshold=threshold, precision=self.precision, device=self.device)
        keep = self.rounded_bytes <= self.keep
        for start, stop in pool_blocks(self.pool, 4 * self.block):
            part = self._kept.get(start)
            if part is None:
                part = lowered_block(self.pool, start, stop, self.precision, self.device)
                if keep:
                    self._kept[start] = part
            search.look(start, part)
        return search.result()

    def _indexed(self, queries: np.ndarray, k: int, threshold: float) -> Neighbours:
        # More than asked, so that what the index ranks wrongly can be put right.
        near = self._index.search(queries, min(search_faiss.widened(self.kind, k), len(self.pool)))
        rows, columns = np.nonzero(near >= 0)
        return ranked(queries, self.pool, rows, near[rows, columns], k=k, threshold=threshold)

    @cached_property
    def _index(self) -> search_faiss.Index:
        return search_faiss.Index(self.kind, self.pool, probes=self.probes)


def choose(pool: int, queries: int, dim: int, *, work: float = EXACT_WORK, memory: int = 8 << 30) -> Kind:
    """The kind for a pool and a number of queries: exact up to ``work`` multiplications, then what ``memory`` holds."""
    if float(pool) * queries * dim <= work:
        return "exact"
    return "ivf" if 4 * pool * dim <= memory else "ivf-pq"


def measured_recall(search: NeighbourSearch, queries: Rows, k: int, *, sample: int = 200, seed: int = 0) -> float:
    """The share of the exact ``k`` nearest that ``search`` finds, on ``sample`` of the queries."""
    chosen = np.sort(np.random.default_rng(seed).permutation(len(queries))[:sample])
    some = np.asarray(queries[chosen], dtype=np.float32)
    found, exact = search.top(some, k), NeighbourSearch(search.pool, search.block).top(some, k)
    if not len(exact.query):
        return 1.0
    pairs = [n.query * len(search.pool) + n.pool for n in (exact, found)]
    return float(np.isin(*pairs).mean())
