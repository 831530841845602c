"""Pairs of a query and a pool row, and their exact order.

Which pairs are worth looking at is decided in ``search_exact`` and ``search_faiss``.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from dinov2_core.curation.vectors import Rows, take

_CHUNK = 512
"""Pairs compared at once: their vectors stay in the processor's cache."""
_SERIAL = 20_000
"""Fewer pairs than this are not worth threads."""


@dataclass(frozen=True)
class Neighbours:
    """Pairs ordered by query, then similarity (falling), then pool index: int64 [P], int64 [P], float32 [P]."""

    query: np.ndarray
    pool: np.ndarray
    similarity: np.ndarray

    @staticmethod
    def joined(parts: Iterable[Neighbours]) -> Neighbours:
        """The pairs of consecutive query blocks as one."""
        found = list(parts)
        return Neighbours(
            np.concatenate([np.zeros(0, np.int64), *(p.query for p in found)]),
            np.concatenate([np.zeros(0, np.int64), *(p.pool for p in found)]),
            np.concatenate([np.zeros(0, np.float32), *(p.similarity for p in found)]),
        )


def pair_similarity(a: Rows, b: Rows, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Cosines of ``a[rows[i]]`` and ``b[columns[i]]``, summed in float64: float32 [P].

    Each pair is summed alone, so its value depends neither on its company nor on the number of threads.
    """
    out = np.zeros(len(rows), np.float32)

    def chunk(start: int) -> None:
        part = slice(start, start + _CHUNK)
        product = np.multiply(take(a, rows[part]), take(b, columns[part]), dtype=np.float64)
        out[part] = product.sum(axis=1)

    starts = range(0, len(rows), _CHUNK)
    if len(rows) < _SERIAL:
        for start in starts:
            chunk(start)
    else:
        with ThreadPoolExecutor(torch.get_num_threads()) as threads:
            list(threads.map(chunk, starts))
    return out


def ranked(queries: Rows, pool: Rows, rows: np.ndarray, columns: np.ndarray, *, k: int, threshold: float) -> Neighbours:
    """The first ``k`` of each query among the given pairs (each once, any order) with cosine over ``threshold``."""
    order = np.lexsort((columns, rows))
    rows, columns = rows[order].astype(np.int64), columns[order].astype(np.int64)
    similarity = pair_similarity(queries, pool, rows, columns)
    # Already in order of query and pool index, so a stable sort leaves equals in order of pool index.
    order = np.lexsort((-similarity, rows))
    rows, columns, similarity = rows[order], columns[order], similarity[order]
    kept = (rank_in_groups(rows) < k) & (similarity > threshold)
    return Neighbours(rows[kept], columns[kept], similarity[kept])


def rank_in_groups(groups: np.ndarray) -> np.ndarray:
    """Position of each element in its run of equal values: int64 [N] for sorted int [N]."""
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    return np.arange(len(groups)) - np.repeat(starts, np.diff(np.append(starts, len(groups))))
