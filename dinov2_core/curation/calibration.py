"""How well a threshold separates copies from other pictures of one pool, measured on copies planted in it.

Fixed thresholds do not fit every pool: tiny or much alike pictures score high without being copies. Planting is in
``planting``, rules on two scores in ``copy_rule``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dinov2_core.curation.copy_rule import Scores, expected_precision
from dinov2_core.curation.neighbours import NeighbourSearch, pair_similarity
from dinov2_core.curation.vectors import Rows

NEIGHBOURS = 64
"""Of each planted copy, as many as the edges of any image."""
NATURAL = 0.75
"""Originals this alike (SSCD's own threshold for 90 % precision) may be copies of each other: they teach nothing."""
THRESHOLDS = tuple(round(0.45 + 0.025 * i, 3) for i in range(21))
Align = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""``(a, b)`` positions int [P] → correlation float [P]; positions ≥ N are those of planted copies."""


@dataclass(frozen=True)
class Measured:
    """Scores of planted copies with their originals and with unrelated images, and how many unrelated were compared.

    ``natural``: pairs left out because their originals are copies of each other already.
    """

    copies: Scores
    others: Scores
    compared: int
    natural: int


@dataclass(frozen=True)
class Line:
    """One threshold: ``recall`` of planted copies, ``false_rate`` of unrelated pairs, ``precision`` expected."""

    threshold: float
    recall: float
    false_rate: float
    precision: float


def score(
    copies: np.ndarray, origin: np.ndarray, matrix: Rows, align: Align, *, floor: float, verify: Align | None
) -> Measured:
    """Score planted copies (float32 [C, D] of the images ``origin``, int [C]) against the pool (float32 [N, D]).

    A pool holds copies of its own, and a planted copy resembles its original's copies as well. Such pairs are not
    unrelated: those whose originals are alike beyond ``NATURAL`` are left out, and so are those whose originals show
    the same fine detail, by ``verify`` (see ``alignment.same_detail``), however low their similarity.
    """
    own = pair_similarity(copies, matrix, np.arange(len(copies)), origin)
    found = NeighbourSearch(matrix).above(copies, floor, NEIGHBOURS)
    apart = found.pool != origin[found.query]
    query, pool, similarity = found.query[apart], found.pool[apart], found.similarity[apart]
    natural = pair_similarity(matrix, matrix, origin[query], pool) > NATURAL
    if verify is not None:
        unsure = np.flatnonzero(~natural)
        pairs, back = np.unique(np.stack([origin[query[unsure]], pool[unsure]], 1), axis=0, return_inverse=True)
        natural[unsure] = verify(pairs[:, 0], pairs[:, 1])[back.reshape(-1)] > 0
    query, pool, similarity = query[~natural], pool[~natural], similarity[~natural]
    planted = len(matrix) + np.arange(len(copies))
    return Measured(
        Scores(own, align(planted, origin)),
        Scores(similarity, align(planted[query], pool)),
        len(copies) * (len(matrix) - 1),
        int(natural.sum()),
    )


def sweep(measured: Measured, unrelated_per_copy: float) -> list[Line]:
    """Similarity alone, against the threshold; rates under one pair are counted as one."""
    lines = []
    for threshold in THRESHOLDS:
        recall = float((measured.copies.similarity > threshold).mean())
        wrong = int((measured.others.similarity > threshold).sum())
        rate = (wrong + 1) / max(measured.compared, 1)
        lines.append(Line(threshold, recall, rate, expected_precision(recall, rate, unrelated_per_copy)))
    return lines


def proposed(lines: list[Line], precision: float) -> Line:
    """The lowest threshold that keeps the wanted precision; where none does, the most precise."""
    enough = [line for line in lines if line.precision >= precision]
    return enough[0] if enough else max(lines, key=lambda line: (line.precision, line.threshold))
