"""Instance retrieval: mean average precision (revisited Oxford and Paris, AmsterTime) and Met's GAP, from features.

Ranking is by cosine. What lies on disk (ground truth, crops of queries) belongs in ``datasets``; what becomes of a
score (intervals, tables) in the protocols.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Indices = Sequence[int] | NDArray[np.int64]

SETUPS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "easy": (("easy",), ("junk", "hard")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("junk", "easy")),
}
"""Which lists of the ground truth count as positive and which as junk (arXiv 1803.11285, section 3.2)."""


def rank(gallery: Tensor, queries: Tensor) -> NDArray[np.int64]:
    """Gallery indices by falling cosine; equal cosines keep the gallery's order.

    Args:
        gallery: ``[G, D]``; ``queries``: ``[Q, D]``.

    Returns:
        ``[Q, G]`` int64.
    """
    similarity = F.normalize(queries.float(), dim=1) @ F.normalize(gallery.float(), dim=1).T
    return similarity.argsort(dim=1, descending=True, stable=True).numpy()


def trapezoid_ap(ranks: NDArray[np.int64], positives: int) -> float:
    """Area under the precision-recall curve by the trapezoid rule, as the Oxford and Paris evaluation defines it.

    Args:
        ranks: 0-based ranks of the positives that were found, rising.
        positives: how many there are.
    """
    if not positives:
        raise ValueError("average precision of no positives is not defined")
    found = np.arange(len(ranks))
    before = np.where(ranks == 0, 1.0, found / np.maximum(ranks, 1))
    after = (found + 1) / (ranks + 1)
    return float((before + after).sum() / (2 * positives))


def step_ap(ranks: NDArray[np.int64], positives: int) -> float:
    """Mean precision at the positives (the step rule of information retrieval); arguments as :func:`trapezoid_ap`."""
    if not positives:
        raise ValueError("average precision of no positives is not defined")
    return float(((np.arange(len(ranks)) + 1) / (ranks + 1)).sum() / positives)


def clean_ranks(order: NDArray[np.int64], positives: Indices, junk: Indices = ()) -> NDArray[np.int64]:
    """0-based ranks of ``positives`` in ``order [G]`` once ``junk`` has been taken out of the list, rising."""
    size = int(order.max()) + 1 if len(order) else 0
    good, bad = np.zeros(size, bool), np.zeros(size, bool)
    good[np.asarray(positives, dtype=np.int64)] = True
    bad[np.asarray(junk, dtype=np.int64)] = True
    kept = order[~bad[order]]
    return np.flatnonzero(good[kept])


def revisited_ap(
    order: NDArray[np.int64], truth: Sequence[Mapping[str, Indices]], setup: Literal["easy", "medium", "hard"]
) -> NDArray[np.float64]:
    """Average precision of each query under a setup of the revisited protocol.

    Args:
        order: ``[Q, G]`` from :func:`rank`.
        truth: a query's lists ``easy``, ``hard`` and ``junk`` of gallery indices.

    Returns:
        ``[Q]``; NaN for queries without a positive in this setup, which the mean leaves out (``nanmean``).
    """
    wanted, ignored = SETUPS[setup]
    scores = []
    for row, lists in zip(order, truth, strict=True):
        positives = _joined(lists, wanted)
        ranks = clean_ranks(row, positives, _joined(lists, ignored))
        scores.append(trapezoid_ap(ranks, len(positives)) if len(positives) else np.nan)
    return np.array(scores)


def _joined(lists: Mapping[str, Indices], names: Sequence[str]) -> NDArray[np.int64]:
    return np.unique(np.concatenate([np.asarray(lists[name], dtype=np.int64).reshape(-1) for name in names]))


def average_precision(order: NDArray[np.int64], positives: Sequence[Indices]) -> NDArray[np.float64]:
    """Step-rule average precision of each query, for sets without junk (AmsterTime). ``order [Q, G] → [Q]``."""
    return np.array([step_ap(clean_ranks(o, p), len(p)) for o, p in zip(order, positives, strict=True)])


@dataclass(frozen=True)
class MetScores:
    """``gap``: over all queries; ``gap_minus``: over those with an answer; ``accuracy``: of those, the share right."""

    gap: float
    gap_minus: float
    accuracy: float


def nearest_answer(
    gallery: Tensor, labels: Tensor, queries: Tensor, *, block: int = 1024
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The label of the most similar gallery image, and its cosine as the confidence.

    Args:
        gallery: ``[G, D]``; ``labels``: ``[G]``; ``queries``: ``[Q, D]``.
        block: queries at a time; bounds memory at ``block · G`` floats.

    Returns:
        ``[Q]`` labels and ``[Q]`` confidences.
    """
    one = F.normalize(gallery.float(), dim=1)
    best = [(F.normalize(part.float(), dim=1) @ one.T).max(dim=1) for part in queries.split(block)]
    values, index = torch.cat([b.values for b in best]), torch.cat([b.indices for b in best])
    return labels[index].numpy(), values.double().numpy()


def gap(
    predicted: NDArray[np.int64], confidence: NDArray[np.float64], truth: NDArray[np.int64], *, answerless: int = -1
) -> float:
    """Global average precision (micro-AP): all queries in one list, by falling confidence (arXiv 2202.01747, 4.2).

    A query whose ``truth`` is ``answerless`` shows no known instance: any answer to it is wrong, and it does not
    count among the queries to be answered. Equal confidences keep the order given.

    Raises:
        ValueError: no query has an answer.
    """
    answerable = int((truth != answerless).sum())
    if not answerable:
        raise ValueError("no query has an answer")
    order = np.argsort(-confidence, kind="stable")
    right = ((predicted == truth) & (truth != answerless))[order]
    precision = np.cumsum(right) / np.arange(1, len(right) + 1)
    return float((precision * right).sum() / answerable)


def met_scores(
    predicted: NDArray[np.int64], confidence: NDArray[np.float64], truth: NDArray[np.int64], *, answerless: int = -1
) -> MetScores:
    """The three numbers of the Met data set; arguments as :func:`gap`."""
    known = truth != answerless
    without = gap(predicted[known], confidence[known], truth[known], answerless=answerless)
    accuracy = float((predicted[known] == truth[known]).mean())
    return MetScores(gap(predicted, confidence, truth, answerless=answerless), without, accuracy)
