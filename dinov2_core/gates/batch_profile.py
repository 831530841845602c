"""What one batch of a table looks like from afar, and how far it is from the batches before it.

Numbers of one batch differ from those of another by chance alone; every comparison here first takes away what chance
explains, so that small batches raise no alarm. Which differences matter does not belong here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import pyarrow.compute as pc

from dinov2_core.gates import reading
from dinov2_core.gates.blocks import Where
from dinov2_core.manifest import WHOLE, Manifest
from dinov2_core.storage import Store

SURE = 3.0
"""Standard errors that chance is given."""


@dataclass(frozen=True)
class Rate:
    """A share of rows: those that ``hits`` means among those whose ``column`` is known."""

    name: str
    column: str
    hits: Where


@dataclass(frozen=True)
class BatchProfile:
    """``rates``: name → (rows that hit, rows that could). ``mean``: of the unit vectors, float [D]; empty without."""

    rows: int
    rates: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    mean: tuple[float, ...] = ()


def measure(store: Store, made: Manifest, table: str, rates: Sequence[Rate], *, vectors: bool) -> BatchProfile:
    """The profile of ``table`` in a manifest: one pass over the columns that it needs."""
    columns = [*(r.column for r in rates), *(c for r in rates for c in r.hits), *(["embedding"] if vectors else [])]
    counts = {rate.name: np.zeros(2, np.int64) for rate in rates}
    total: np.ndarray | None = None
    found = 0
    for _, block in reading.blocks(store, made.table(table), columns) if columns else ():
        for rate in rates:
            hits = block.mask(rate.hits)
            known = pc.is_valid(block.rows.column(rate.column)).to_numpy(zero_copy_only=False)
            counts[rate.name] += int((hits & known).sum()), int(known.sum())
        if vectors:
            stored = pc.drop_null(block.rows.column("embedding"))
            width = stored.type.list_size
            flat = stored.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
            total = (0 if total is None else total) + flat.sum(axis=0, dtype=np.float64)
            found += len(flat)
    mean = tuple((total / found).tolist()) if total is not None and found else ()
    rows = sum(record.rows or 0 for record in made.table(table))
    return BatchProfile(rows, {name: (int(a), int(b)) for name, (a, b) in counts.items()}, mean)


def to_json(profile: BatchProfile) -> bytes:
    """The profile as a small file."""
    return json.dumps(asdict(profile)).encode()


def from_json(data: bytes) -> BatchProfile:
    """The inverse of :func:`to_json`."""
    body = json.loads(data)
    rates = {name: (int(a), int(b)) for name, (a, b) in body["rates"].items()}
    return BatchProfile(int(body["rows"]), rates, tuple(body["mean"]))


def volume_ratio(batch: BatchProfile, earlier: Sequence[BatchProfile]) -> float | None:
    """How many times larger or smaller a batch is than the median of the earlier ones: at least 1; None without any."""
    usual = float(np.median([one.rows for one in earlier])) if earlier else 0.0
    if not usual:
        return None
    return float("inf") if not batch.rows else max(batch.rows / usual, usual / batch.rows)


def rate_shift(name: str, batch: BatchProfile, earlier: Sequence[BatchProfile]) -> float | None:
    """By how much a rate differs from that of all earlier batches, beyond :data:`SURE` standard errors: 0 … 1.

    The standard error is that of a difference of two binomial shares, each with one half added to hits and misses
    (Agresti and Caffo, 2000), so that a rate of zero in a small batch is not taken for certain.
    """
    hits, known = batch.rates[name]
    before = np.array([one.rates[name] for one in earlier], np.float64).reshape(-1, 2).sum(axis=0)
    if not known or not before[1]:
        return None
    shares = np.array([hits / known, before[0] / before[1]])
    counts = np.array([known, before[1]])
    careful = (shares * counts + 0.5) / (counts + 1)
    error = float(np.sqrt((careful * (1 - careful) / counts).sum()))
    return max(0.0, abs(float(shares[0] - shares[1])) - SURE * error)


def mean_shift(batch: BatchProfile, earlier: Sequence[BatchProfile]) -> float | None:
    """Distance of a batch's mean vector from that of the earlier batches, without what chance explains: 0 … 2.

    For unit vectors the mean of n scatters about the true one with the squared length ``(1 - |mean|²) / n`` on
    average. That squared length itself scatters, most where all lies in one direction: by √2 times its average. So
    ``1 + √2`` :data:`SURE` of it are taken from the squared distance. None without comparable batches.
    """
    alike = [one for one in earlier if one.mean and len(one.mean) == len(batch.mean)]
    if not batch.mean or not alike:
        return None
    weights = np.array([one.rows for one in alike], np.float64)
    usual = (np.array([one.mean for one in alike]) * weights[:, None]).sum(axis=0) / weights.sum()
    mean = np.array(batch.mean)
    chance = (1 - mean @ mean) / batch.rows + (1 - usual @ usual) / weights.sum()
    allowed = (1 + np.sqrt(2) * SURE) * max(0.0, float(chance))
    return float(np.sqrt(max(0.0, float(((mean - usual) ** 2).sum()) - allowed)))


def comparable(batch: Manifest, other: Manifest) -> bool:
    """Whether two batches were made alike: the same settings, from the same inputs but for the batches themselves."""

    def shared(one: Manifest) -> dict[str, str]:
        return {key: value for key, value in one.upstream.items() if key.split("/", 1)[1] == WHOLE}

    return dict(batch.params) == dict(other.params) and shared(batch) == shared(other)
