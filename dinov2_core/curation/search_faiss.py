"""Faiss indices as nominators: flat, inverted lists, inverted lists of product-quantised vectors.

On a GPU where Faiss sees one. The nominated pairs are computed again in ``search_pairs``; exact search of our own is in
``search_exact``.
"""

from __future__ import annotations

import faiss
import numpy as np

from dinov2_core.curation.vectors import Rows, rows_of

_ADD = 65_536
_TRAIN_PER_LIST = 64
_CODE_DIMS = 8
"""Dimensions that share one byte of a product-quantised vector."""


def widened(kind: str, k: int) -> int:
    """How many to nominate for ``k`` wanted: coarser codes rank worse."""
    return 4 * k + 16 if kind == "ivf-pq" else k + 4


def lists_for(rows: int) -> int:
    """Inverted lists of a pool of ``rows``: about four times the square root, as Faiss's guidelines say."""
    return max(1, min(rows // 39, int(4 * rows**0.5)))


class Index:
    """A Faiss index of ``kind`` over ``pool`` [M, D], filled in blocks. Equal pools give equal indices."""

    def __init__(self, kind: str, pool: Rows, *, probes: int) -> None:
        size, dim = len(pool), pool.shape[1]
        self._index = _made(kind, size, dim)
        if not self._index.is_trained:
            wanted = min(size, _TRAIN_PER_LIST * lists_for(size))
            chosen = np.sort(np.random.default_rng(0).permutation(size)[:wanted])
            self._index.train(np.ascontiguousarray(pool[chosen], dtype=np.float32))
        if hasattr(self._index, "nprobe"):
            self._index.nprobe = probes
        # Absent from builds for the CPU, and zero where there is no device.
        if getattr(faiss, "get_num_gpus", lambda: 0)():
            self._index = faiss.index_cpu_to_all_gpus(self._index)
        for start in range(0, size, _ADD):
            self._index.add(rows_of(pool, start, min(start + _ADD, size)))

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        """Pool indices nominated for float32 [N, D]: int64 [N, k], −1 where fewer were found."""
        _, near = self._index.search(np.ascontiguousarray(queries), k)
        return np.asarray(near, dtype=np.int64)


def _made(kind: str, size: int, dim: int) -> faiss.Index:
    if kind == "flat":
        return faiss.IndexFlatIP(dim)
    coarse = faiss.IndexFlatIP(dim)
    if kind == "ivf":
        return faiss.IndexIVFFlat(coarse, dim, lists_for(size), faiss.METRIC_INNER_PRODUCT)
    if kind == "ivf-pq":
        codes = max(m for m in range(1, max(1, dim // _CODE_DIMS) + 1) if dim % m == 0)
        # A codebook needs as many vectors as it has entries.
        bits = min(8, max(1, int(np.log2(max(2, size // 39)))))
        return faiss.IndexIVFPQ(coarse, dim, lists_for(size), codes, bits, faiss.METRIC_INNER_PRODUCT)
    raise ValueError(f"no index of kind {kind!r}")
