"""When is a pair of alike images a copy? A rule on two scores, and its fit to labelled pairs.

Where the labelled pairs come from is in ``planting``; what follows for the images is decided by the stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

TRADES = (0.0, 0.05, 0.1, 0.15, 0.2)
ALIGNMENTS = tuple(np.concatenate([np.arange(0.8, 0.95, 0.01), np.arange(0.95, 1.03, 0.0025)]).round(4).tolist())
DETAILS = tuple(np.arange(0.5, 0.97, 0.02).round(4).tolist())
"""As ``ALIGNMENTS``, where fine detail is aligned."""
SIMILARITIES = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)


@dataclass(frozen=True)
class CopyRule:
    """A pair is a copy where its similarity exceeds ``similarity``, or where it exceeds ``aligned_similarity`` and its
    alignment exceeds ``alignment``, less ``trade`` for each unit of similarity over ``aligned_similarity``: the more
    alike two images are to the network, the less their pixels must prove. The paper's rule is ``CopyRule(0.6)``
    (appendix A.3).
    """

    similarity: float
    aligned_similarity: float = 1.0
    alignment: float = 1.0
    trade: float = 0.0

    def accepts(self, similarity: np.ndarray, alignment: np.ndarray) -> np.ndarray:
        """bool [P] for float [P] scores; an alignment that was not computed (nan) confirms nothing."""
        sure: np.ndarray = similarity > self.similarity
        over = similarity - self.aligned_similarity
        return sure | ((over > 0) & (alignment + self.trade * over > self.alignment))


@dataclass(frozen=True)
class Scores:
    """Two scores of pairs, float [P] each."""

    similarity: np.ndarray
    alignment: np.ndarray


@dataclass(frozen=True)
class Fit:
    """A rule with the share of copies that it finds and the precision expected of it in the pool."""

    rule: CopyRule
    recall: float
    precision: float


def expected_precision(recall: float, false_rate: float, unrelated_per_copy: float) -> float:
    """Precision where each true pair stands beside ``unrelated_per_copy`` others, of which ``false_rate`` pass."""
    wrong = false_rate * unrelated_per_copy
    return recall / (recall + wrong) if recall + wrong > 0 else 0.0


def fit(
    copies: Scores,
    others: Scores,
    *,
    compared: int,
    unrelated_per_copy: float,
    precision: float,
    floor: float,
    alignments: Sequence[float] = ALIGNMENTS,
) -> Fit:
    """The rule that finds most of ``copies`` at the wanted precision, the most precise of equals.

    Args:
        copies: pairs known to be copies, whatever their scores.
        others: the pairs of unrelated images that scored over ``floor`` in similarity.
        compared: how many unrelated pairs were scored to find ``others``.
        unrelated_per_copy: unrelated pairs for each true one in the pool.
        precision: wanted; where no rule reaches it, the most precise one is returned.
        floor: the similarity under which pairs are not stored, so that no rule can accept them.
        alignments: what rules may ask of the second score.
    """
    best: tuple[tuple[float, ...], Fit] | None = None
    for rule in _candidates(floor, alignments):
        recall = float(rule.accepts(copies.similarity, copies.alignment).mean())
        # One more than seen: with none seen, the rate is not known to be zero.
        false_rate = (float(rule.accepts(others.similarity, others.alignment).sum()) + 1) / max(compared, 1)
        reached = expected_precision(recall, false_rate, unrelated_per_copy)
        strictness = rule.similarity + rule.alignment - rule.trade
        enough = reached >= precision
        # Until the precision is reached it decides; afterwards recall does.
        key = (1.0, recall, reached, strictness) if enough else (0.0, reached, recall, strictness)
        if best is None or key > best[0]:
            best = key, Fit(rule, recall, reached)
    assert best is not None
    return best[1]


def _candidates(floor: float, alignments: Sequence[float]) -> list[CopyRule]:
    sure = [s for s in SIMILARITIES if s > floor] + [1.0]
    rules = [CopyRule(s) for s in sure]
    return rules + [CopyRule(s, floor, alignment, trade) for s in sure for trade in TRADES for alignment in alignments]
