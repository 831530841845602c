"""Exact nearest neighbours: a matrix product in 16 bits nominates, float64 decides.

The product of two rounded vectors differs from the true cosine by no more than the vectors' rounding errors
(Cauchy–Schwarz), so every pair that could belong to the result scores over a limit that is known for each query. The
limit rises while the pool goes by in blocks, few pairs pass it, and only those are computed again. That is faster than
a float32 product with a heap, and gives the same pairs as comparing all of them in float64. Memory is bounded by the
sizes of the blocks. Approximate search is in ``search_faiss``.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from dinov2_core.curation.search_pairs import Neighbours, rank_in_groups, ranked
from dinov2_core.curation.vectors import Rows, rows_of

Precision = Literal["auto", "bfloat16", "float32"]
_ULP = 2.0**-7
"""Relative distance of neighbouring 16-bit scores."""
_SLACK = 1e-6
"""Float64 sums are compared after rounding to float32: equals there may differ by this much before."""
_CANDIDATES = 1 << 22
"""Candidates of one query block that may be held before they are thinned (8 bytes each), unless ``k`` needs more."""
_SHARE = 256
"""Rows of scores at the least that are worth a thread."""
_GROWTH = 4
"""Candidates are thinned whenever the pool seen has grown by this factor."""


@dataclass(frozen=True)
class Lowered:
    """Vectors as the first pass sees them, [N, D] on its device, and the largest norm of what rounding took away."""

    values: torch.Tensor
    error: float


def lowered(rows: np.ndarray, precision: Precision, device: str) -> Lowered:
    """Round float32 [N, D] for the first pass on ``device``."""
    exact = torch.from_numpy(np.ascontiguousarray(rows)).to(device)
    if not use_bfloat16(precision, device):
        return Lowered(exact, 0.0)
    rounded = exact.bfloat16()
    lost = exact - rounded
    return Lowered(rounded, float(torch.linalg.vector_norm(lost, dim=1).max()) if len(rows) else 0.0)


def use_bfloat16(precision: Precision, device: str) -> bool:
    """Whether to round: on CPUs without bfloat16 products it costs more than it saves."""
    if precision == "auto":
        return device != "cpu" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return precision == "bfloat16"


class BlockSearch:
    """One block of queries, float32 [N, D] with N < 65,536, against a pool that goes by in blocks."""

    def __init__(
        self, queries: np.ndarray, pool: Rows, *, k: int, threshold: float, precision: Precision, device: str
    ) -> None:
        self.queries, self.pool, self.k, self.threshold = queries, pool, k, threshold
        self.precision, self.device = precision, device
        self._query = lowered(queries, precision, device)
        # Rounding of the products and sums in float32, as a share of the largest possible sum.
        self._sum_error = queries.shape[1] * 2.0**-23 + _SLACK
        # What a pair must reach to count, as far as is known: float64 [N].
        self._floor = np.full(len(queries), threshold - _SLACK, np.float64)
        self._keys = np.zeros(0, np.uint64)
        self._most = max(_CANDIDATES, 4 * len(queries) * min(k, len(pool)))
        self._error = 0.0
        self._seen = 0
        self._thin_at = 0

    def look(self, start: int, block: Lowered) -> None:
        """Compare with the pool rows from ``start``; blocks come in order, each once."""
        error = self._query.error * 1.01 + block.error * 1.01 + self._sum_error
        self._error = max(self._error, error)
        scores = _bits(self._query.values @ block.values.T)
        if not self._seen:
            self._first_floor(scores)
        self._seen += len(block.values)
        self._add(scores, start, _limit(self._floor - error))
        if self._seen >= self._thin_at or len(self._keys) > self._most:
            self._thin()
            self._thin_at = _GROWTH * self._seen

    def result(self) -> Neighbours:
        """The exact neighbours among all that was seen."""
        self._thin()
        rows, columns = _pairs(self._keys)
        return ranked(self.queries, self.pool, rows, columns, k=self.k, threshold=self.threshold)

    def _first_floor(self, scores: torch.Tensor) -> None:
        """k groups of columns hold a score as high as the k-th highest of the groups' maxima."""
        count, width = scores.shape[1], 1
        while count % (2 * width) == 0 and count // (2 * width) >= 4 * self.k:
            width *= 2
        if count // width < self.k or width == 1:
            return
        tops = _sortable(scores).view(len(scores), -1, width).amax(-1).cpu().numpy()
        self._raise_floor(slice(None), np.partition(tops, -self.k, axis=1)[:, -self.k])

    def _raise_floor(self, rows: np.ndarray | slice, kth: np.ndarray) -> None:
        """Take note that each of ``rows`` has ``k`` pairs that score ``kth`` (sortable int16) or more."""
        value = _value(kth)
        self._floor[rows] = np.maximum(self._floor[rows], value - np.abs(value) * _ULP - self._error)

    def _add(self, scores: torch.Tensor, start: int, limit: np.ndarray) -> None:
        if int(limit.min()) < 0:
            scores = _sortable(scores)
        rows, columns, values = _over(scores, limit)
        ordered = (np.int64(0x7FFF) - values).astype(np.uint64) << np.uint64(32)
        keys = (rows.astype(np.uint64) << np.uint64(48)) | ordered | (columns + start).astype(np.uint64)
        self._keys = np.concatenate([self._keys, keys])

    def _thin(self) -> None:
        """Drop candidates that cannot be among the ``k`` best of their query."""
        self._keys.sort()
        rows, values = (self._keys >> np.uint64(48)).astype(np.int64), _values(self._keys)
        rank = rank_in_groups(rows)
        kth = rank == self.k - 1
        self._raise_floor(rows[kth], values[kth])
        self._keys = self._keys[values >= _limit(self._floor - self._error)[rows]]
        if len(self._keys) > self._most // 2:
            self._settle()

    def _settle(self) -> None:
        """Where too many are too alike for 16 bits: keep exactly the best of each query."""
        rows, columns = _pairs(self._keys)
        best = ranked(self.queries, self.pool, rows, columns, k=self.k, threshold=self.threshold)
        pair = (rows.astype(np.uint64) << np.uint64(32)) | columns.astype(np.uint64)
        order = np.argsort(pair)
        wanted = (best.query.astype(np.uint64) << np.uint64(32)) | best.pool.astype(np.uint64)
        self._keys = np.sort(self._keys[order[np.searchsorted(pair[order], wanted)]])
        kth = rank_in_groups(best.query) == self.k - 1
        self._floor[best.query[kth]] = np.maximum(
            self._floor[best.query[kth]], best.similarity[kth].astype(np.float64) - _SLACK
        )


def _bits(scores: torch.Tensor) -> torch.Tensor:
    """The upper 16 bits of scores: int16, in the order of the scores where these are not negative."""
    if scores.dtype == torch.bfloat16:
        return scores.view(torch.int16)
    return (scores.view(torch.int32) >> 16).to(torch.int16)


def _sortable(bits: torch.Tensor) -> torch.Tensor:
    """Bits in the order of the scores, negative ones too."""
    return bits ^ ((bits >> 15) & 0x7FFF)


def _limit(value: np.ndarray) -> np.ndarray:
    """The sortable bits at or below float64 ``value``: int16."""
    bits = np.nextafter(value.astype(np.float32), np.float32(-np.inf)).view(np.int32)
    return ((bits ^ ((bits >> 31) & 0x7FFFFFFF)) >> 16).astype(np.int16)


def _value(bits: np.ndarray) -> np.ndarray:
    """The score that sortable int16 ``bits`` stand for: float64."""
    wide = bits.astype(np.int32)
    raw = (wide ^ ((wide >> 15) & 0x7FFF)) << 16
    return raw.astype(np.int32).view(np.float32).astype(np.float64)


def _values(keys: np.ndarray) -> np.ndarray:
    return 0x7FFF - ((keys >> np.uint64(32)) & np.uint64(0xFFFF)).astype(np.int64)


def _pairs(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return (keys >> np.uint64(48)).astype(np.int64), (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)


def _over(scores: torch.Tensor, limit: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``(row, column, score)`` of the scores at or over their row's limit: int64 each."""
    if scores.device.type == "cpu" and scores.shape[1] % 8 == 0:
        return _over_on_host(scores.numpy(), limit)
    found = (scores >= torch.from_numpy(limit).to(scores.device)[:, None]).nonzero()
    rows, columns = (found[:, i].cpu().numpy() for i in (0, 1))
    return rows, columns, scores[found[:, 0], found[:, 1]].cpu().numpy().astype(np.int64)


def _over_on_host(scores: np.ndarray, limit: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """NumPy's comparison of int16 is several times as fast as PyTorch's, but takes one thread: a share of rows each."""

    def some(start: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        host = scores[start : start + share]
        flags = np.greater_equal(host, limit[start : start + share, None])
        # Hits are rare: look at eight flags at once.
        eights = np.flatnonzero(flags.view(np.int64))
        which, offset = np.nonzero(flags.reshape(-1, 8)[eights])
        rows, columns = np.divmod(eights[which] * 8 + offset, host.shape[1])
        return rows + start, columns, host[rows, columns].astype(np.int64)

    share = max(_SHARE, -(-len(scores) // torch.get_num_threads()))
    starts = range(0, len(scores), share)
    if len(starts) == 1:
        return some(0)
    with ThreadPoolExecutor(len(starts)) as threads:
        parts = list(threads.map(some, starts))
    rows, columns, values = (np.concatenate(found) for found in zip(*parts, strict=True))
    return rows, columns, values


def pool_blocks(pool: Rows, block: int) -> list[tuple[int, int]]:
    """``(start, stop)`` of the pool's blocks."""
    return [(start, min(start + block, len(pool))) for start in range(0, len(pool), block)]


def lowered_block(pool: Rows, start: int, stop: int, precision: Precision, device: str) -> Lowered:
    """The pool's rows from ``start`` to ``stop`` for the first pass."""
    return lowered(rows_of(pool, start, stop), precision, device)
