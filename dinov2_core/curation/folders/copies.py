"""Copies within a folder, and between a pool and a benchmark: pairs, components, which image stays.

Describing images is in ``description``, writing results in the modules beside.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from dinov2_core.curation import whitening
from dinov2_core.curation.alignment import DETAIL, correlation, detail
from dinov2_core.curation.calibration import NEIGHBOURS, Line, Measured, proposed, score, sweep
from dinov2_core.curation.components import connected_components
from dinov2_core.curation.copy_rule import DETAILS, CopyRule, Fit, fit
from dinov2_core.curation.folders.description import Described, Model, plant
from dinov2_core.curation.folders.job import Job
from dinov2_core.curation.keep_rule import keep_order
from dinov2_core.curation.neighbours import NeighbourSearch
from dinov2_core.curation.scratch import MEMORY
from dinov2_core.curation.vectors import MappedRows, PickedRows, Rows
from dinov2_core.progress import track

PAPER, PAPER_BENCHMARK = 0.6, 0.45
ALIGNED, COINCIDES = 0.25, 0.8
"""Similarity from which fine detail is aligned, and the correlation from which it is the same. On photographs at 512
pixels none of 1,535 unrelated pairs between 0.25 and 0.6 in similarity went over it; 12 went over 0.7."""
FLOORS = (0.3, 0.35, 0.4, 0.45)
"""Pairs under the floor are not looked at when thresholds are fitted: of these the lowest that leaves a planted copy at
most ``LOOKED_AT`` unrelated images to align with."""
LOOKED_AT = 8


@dataclass(frozen=True)
class Search:
    """``rule`` None: fitted to the pool. ``centre`` and ``whiten`` as in ``whitening``."""

    rule: CopyRule | None
    k: int = 64
    centre: bool = False
    whiten: bool = False
    calibrate: bool = False
    sample: int = 500
    precision: float = 0.9
    memory: int = MEMORY
    """Bytes for what grows with the pool; beyond it lies in temporary files."""
    share: float = 0.05
    """Of the images, as far as one can guess, that have a copy: it scales the measured rates to the pool."""


@dataclass(frozen=True)
class Pairs:
    """``a``, ``b`` positions int [P]; ``similarity``, ``alignment`` float32 [P] (nan where not computed)."""

    a: np.ndarray
    b: np.ndarray
    similarity: np.ndarray
    alignment: np.ndarray


@dataclass(frozen=True)
class Calibration:
    """What was measured on the pool: a table by threshold, the threshold proposed, and a rule on both scores."""

    lines: list[Line]
    proposed: Line
    fit: Fit
    planted: int
    natural: int
    recall_by_kind: dict[str, float]


def exact_groups(table: pa.Table, column: str = "pixel_sha256") -> np.ndarray:
    """For each image the first one with the same pixels, or the same bytes by ``sha256``: int64 [N]."""
    names = np.array(table[column].to_pylist(), dtype=str)
    _, first, back = np.unique(names, return_index=True, return_inverse=True)
    found: np.ndarray = first[back.reshape(-1)].astype(np.int64)
    return found


def transformed(described: Described, search: Search, base: Rows) -> tuple[Rows, Rows]:
    """``matrix`` and ``mirrored`` centred or whitened by the statistics of ``base``, [M, D], as they are read."""
    if not (search.centre or search.whiten):
        return described.matrix, described.mirrored
    transform = whitening.fit(base, centre=search.centre, whiten=search.whiten)
    return MappedRows(described.matrix, transform), MappedRows(described.mirrored, transform)


def between(
    queries: Rows, mirrored: Rows, pool: Rows, threshold: float, k: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs (query, pool row, similarity) over ``threshold``; of a picture and its mirror image the more alike."""
    searched = NeighbourSearch(pool)
    parts = [searched.above(queries, threshold, k, label="comparing images")]
    if len(mirrored):
        parts.append(searched.above(mirrored, threshold, k, label="comparing mirrored images"))
    query, row, similarity = (np.concatenate([getattr(p, n) for p in parts]) for n in ("query", "pool", "similarity"))
    order = np.lexsort((-similarity, row, query))
    query, row, similarity = query[order], row[order], similarity[order]
    new = np.ones(len(query), bool)
    new[1:] = (np.diff(query) != 0) | (np.diff(row) != 0)
    return query[new], row[new], similarity[new]


@dataclass(frozen=True)
class _Joined:
    """The pictures of two arrays, one after the other, without a copy of both."""

    first: np.ndarray
    second: np.ndarray

    def __getitem__(self, index: int) -> np.ndarray:
        count = len(self.first)
        picture: np.ndarray = self.first[index] if index < count else self.second[index - count]
        return picture


Pictures = np.ndarray | _Joined
"""uint8 [N, S, S], read one at a time."""


def aligned(a: Pictures, b: Pictures, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Correlation of the fine detail of ``a[rows[i]]`` and ``b[columns[i]]``: float32 [P]."""
    found = np.zeros(len(rows), np.float32)
    order = np.argsort(rows, kind="stable")
    last, one = -1, None
    for i in track(order.tolist(), "aligning pairs", len(order)):
        if rows[i] != last:
            last, one = rows[i], detail(a[rows[i]])
        assert one is not None
        found[i] = correlation(one, detail(b[columns[i]]))
    return found


def judged(rule: CopyRule, pairs: Pairs, a: np.ndarray, b: np.ndarray) -> tuple[Pairs, np.ndarray]:
    """The pairs with the alignment that ``rule`` asks for, and which of them it takes: bool [P]."""
    alignment = pairs.alignment.copy()
    if rule.aligned_similarity < 1:
        alignment = aligned(a, b, pairs.a, pairs.b)
    return Pairs(pairs.a, pairs.b, pairs.similarity, alignment), rule.accepts(pairs.similarity, alignment)


def copy_pairs(described: Described, search: Search, rule: CopyRule) -> Pairs:
    """Pairs a < b among the images that ``rule`` takes; equal pixels are searched once."""
    matrix, mirrored = transformed(described, search, described.matrix)
    single = np.flatnonzero(exact_groups(described.table) == np.arange(len(matrix)))
    floor = min(rule.similarity, rule.aligned_similarity)
    distinct = PickedRows(matrix, single)
    queries = PickedRows(mirrored, single) if len(mirrored) else mirrored
    # One more neighbour than asked: every image is its own nearest.
    query, row, similarity = between(distinct, queries, distinct, floor, search.k + 1)
    a, b = single[query], single[row]
    low, high = np.minimum(a, b), np.maximum(a, b)
    order = np.lexsort((-similarity, high, low))
    low, high, similarity = low[order], high[order], similarity[order]
    new = low != high
    new[1:] &= (np.diff(low) != 0) | (np.diff(high) != 0)
    found = Pairs(low[new], high[new], similarity[new], np.full(int(new.sum()), np.nan, np.float32))
    found, accepted = judged(rule, found, described.greys, described.greys)
    return Pairs(found.a[accepted], found.b[accepted], found.similarity[accepted], found.alignment[accepted])


def components(table: pa.Table, first: np.ndarray, pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    """``(component, kept)`` of the images in ``table``, which ``first`` says are equal to earlier ones: the smallest
    position of each image's component, and whether it stays: [N] each."""
    count = len(table)
    labels = connected_components(count, [(first, np.arange(count)), (pairs.a, pairs.b)])
    pixels = table["width"].to_numpy().astype(np.int64) * table["height"].to_numpy()
    order = keep_order(pixels, table["bytes"].to_numpy(), np.arange(count))
    _, first = np.unique(labels[order], return_index=True)
    kept = np.zeros(count, bool)
    kept[order[first]] = True
    return labels.astype(np.int64), kept


def _floor(copies: np.ndarray, matrix: Rows) -> float:
    found = NeighbourSearch(matrix).above(copies, FLOORS[0], NEIGHBOURS).similarity
    cheap = (floor for floor in FLOORS if (found > floor).sum() <= (1 + LOOKED_AT) * len(copies))
    return next(cheap, FLOORS[-1])


def calibrated(job: Job, described: Described, model: Model, search: Search, *, references: int = 0) -> Calibration:
    """Plant copies in the pool, score them and fit.

    ``references``: images that the pool will be compared with; 0 where with itself.
    """
    count = len(described.matrix)
    chosen = np.sort(np.random.default_rng(0).permutation(count)[: search.sample])
    origin, kinds, copies, greys = plant(job, described, model, chosen)
    transform = whitening.fit(described.matrix, centre=search.centre, whiten=search.whiten)
    both = _Joined(described.greys, greys)
    matrix = transformed(described, search, described.matrix)[0]
    floor = _floor(transform(copies), matrix)
    measured: Measured = score(
        transform(copies),
        origin,
        matrix,
        lambda a, b: aligned(both, both, a, b),
        floor=floor,
        verify=lambda a, b: aligned(both, both, a, b) - DETAIL,
    )
    # Each true pair stands beside this many others.
    unrelated = count / search.share if references else count / 2 / search.share
    lines = sweep(measured, unrelated)
    best = fit(
        measured.copies,
        measured.others,
        compared=measured.compared,
        unrelated_per_copy=unrelated,
        precision=search.precision,
        floor=floor,
        alignments=DETAILS,
    )
    found = best.rule.accepts(measured.copies.similarity, measured.copies.alignment)
    by_kind = {str(k): round(float(found[kinds == k].mean()), 4) for k in np.unique(kinds)}
    return Calibration(lines, proposed(lines, search.precision), best, len(origin), measured.natural, by_kind)
