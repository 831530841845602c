"""The copy edges of all batches in blocks, cut to the ``k`` nearest of every image.

What a batch stored depends on which batches came before it: it holds the nearest among those, and some of them are not
among the nearest of all. Cut here, the edges are those of one search over the whole pool. Which are copies is decided
by ``deduplicated_set``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dinov2_core.curation.image_index import ImageIndex
from dinov2_core.curation.scratch import Scratch
from dinov2_core.curation.search_pairs import rank_in_groups
from dinov2_core.stage import StageRun
from dinov2_core.stages import pool_tables

_BAND = 1 << 22
"""Edges of crowded images that are ranked at once."""


@dataclass(frozen=True)
class Edges:
    """Positions ``a`` and ``b``, int64 [E], and two scores, float64 [E]; an alignment may be nan."""

    a: np.ndarray
    b: np.ndarray
    similarity: np.ndarray
    alignment: np.ndarray

    def __getitem__(self, chosen: np.ndarray) -> Edges:
        return Edges(self.a[chosen], self.b[chosen], self.similarity[chosen], self.alignment[chosen])


class CopyEdges:
    """The edges among the images of ``index``."""

    def __init__(self, run: StageRun, index: ImageIndex, scratch: Scratch) -> None:
        self._run, self._index = run, index
        self.k = min((int(m.params["k"]) for m in run.manifests("copy_edges")), default=64)
        self.count = pool_tables.rows(run, "copy_edges", "edges")
        self._degree = scratch.full(len(index), np.int32, 0)
        for edges in self._stored():
            np.add.at(self._degree, edges.a, 1)
            np.add.at(self._degree, edges.b, 1)

    def blocks(self) -> Iterator[Edges]:
        """Every edge that is among the ``k`` nearest of one of its ends."""
        for edges in self._stored():
            # Whoever has no more than k edges has nothing to cut.
            yield edges[(self._degree[edges.a] <= self.k) | (self._degree[edges.b] <= self.k)]
        for low, high in self._bands():
            yield self._nearest(low, high)

    def _bands(self) -> Iterator[tuple[int, int]]:
        """Ranges of positions whose crowded images have about ``_BAND`` edges together."""
        crowded = np.flatnonzero(self._degree > self.k)
        if not len(crowded):
            return
        band = np.cumsum(self._degree[crowded].astype(np.int64)) // _BAND
        for start in np.flatnonzero(np.diff(band, prepend=-1)):
            members = crowded[band == band[start]]
            yield int(members[0]), int(members[-1]) + 1

    def _nearest(self, low: int, high: int) -> Edges:
        """The ``k`` nearest of each crowded image from ``low`` to ``high`` whose other end is crowded too."""
        ends, others, similarity, alignment = [], [], [], []
        for edges in self._stored():
            for own, other in ((edges.a, edges.b), (edges.b, edges.a)):
                chosen = (own >= low) & (own < high) & (self._degree[own] > self.k)
                ends.append(own[chosen])
                others.append(other[chosen])
                similarity.append(edges.similarity[chosen])
                alignment.append(edges.alignment[chosen])
        found = Edges(*(np.concatenate(parts) for parts in (ends, others, similarity, alignment)))
        found = found[np.lexsort((found.b, -found.similarity, found.a))]
        found = found[rank_in_groups(found.a) < self.k]
        return found[self._degree[found.b] > self.k]

    def _stored(self) -> Iterator[Edges]:
        for block in pool_tables.blocks(self._run, "copy_edges", "edges"):
            scores = [block.column(name).to_numpy(zero_copy_only=False) for name in ("similarity", "alignment")]
            ends = [self._index.find(pool_tables.ids(block, name)) for name in ("a", "b")]
            yield Edges(*ends, *(score.astype(np.float64) for score in scores))
