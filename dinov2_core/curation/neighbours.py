"""Exact nearest neighbours by cosine, in blocks of bounded memory.

Results do not depend on block size or threads: matrix products only nominate pairs, whose similarity is then computed
again one by one in float64. What neighbours are used for does not belong here.
"""

from __future__ import annotations

from dataclasses import dataclass

import faiss
import numpy as np

_SLACK = 1e-4
"""By how much a float32 product over unit vectors may differ from the float64 one."""


@dataclass(frozen=True)
class Neighbours:
    """Pairs ordered by query, then similarity (falling), then pool index: int64 [P], int64 [P], float32 [P]."""

    query: np.ndarray
    pool: np.ndarray
    similarity: np.ndarray


@dataclass(frozen=True)
class NeighbourSearch:
    """Searches ``pool``, float32 [M, D] with rows of unit length. ``block`` rows of queries × pool are held at once."""

    pool: np.ndarray
    block: int = 4096

    def above(self, queries: np.ndarray, threshold: float, k: int) -> Neighbours:
        """The at most ``k`` pool rows of each query (float32 [N, D]) with cosine over ``threshold``."""
        found_q, found_p = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for q in range(0, len(queries), self.block):
            for p in range(0, len(self.pool), self.block):
                product = queries[q : q + self.block] @ self.pool[p : p + self.block].T
                rows, columns = np.nonzero(product > threshold - _SLACK)
                found_q.append(rows + q)
                found_p.append(columns + p)
        ordered = self._ordered(queries, np.concatenate(found_q), np.concatenate(found_p))
        return _first(ordered, k, threshold)

    def top(self, queries: np.ndarray, k: int) -> Neighbours:
        """The ``k`` nearest pool rows (all where the pool is smaller) of each query, float32 [N, D]."""
        if not len(self.pool) or not len(queries):
            nothing = np.zeros(0, np.int64)
            return Neighbours(nothing, nothing, np.zeros(0, np.float32))
        index = faiss.IndexFlatIP(self.pool.shape[1])
        index.add(np.ascontiguousarray(self.pool))
        # A few more than asked, so that rounding cannot push a true neighbour out.
        wide = min(k + 4, len(self.pool))
        _, near = index.search(np.ascontiguousarray(queries), wide)
        rows = np.repeat(np.arange(len(queries)), wide)
        return _first(self._ordered(queries, rows, near.reshape(-1).astype(np.int64)), k, -np.inf)

    def _ordered(self, queries: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> Neighbours:
        similarity = pair_similarity(queries, self.pool, rows, columns)
        order = np.lexsort((columns, -similarity, rows))
        return Neighbours(rows[order], columns[order], similarity[order])


def pair_similarity(a: np.ndarray, b: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Cosines of ``a[rows[i]]`` and ``b[columns[i]]``, summed in float64: float32 [P]."""
    out = np.zeros(len(rows), np.float32)
    for start in range(0, len(rows), 65536):
        part = slice(start, start + 65536)
        left, right = a[rows[part]].astype(np.float64), b[columns[part]].astype(np.float64)
        out[part] = (left * right).sum(axis=1)
    return out


def _first(found: Neighbours, k: int, threshold: float) -> Neighbours:
    """The first ``k`` of each query among those over ``threshold``."""
    starts = np.flatnonzero(np.diff(found.query, prepend=-1))
    lengths = np.diff(np.append(starts, len(found.query)))
    rank = np.arange(len(found.query)) - np.repeat(starts, lengths)
    kept = (rank < k) & (found.similarity > threshold)
    return Neighbours(found.query[kept], found.pool[kept], found.similarity[kept])
