"""Protocols on labelled images that the paper's tables lack: unknown images, and a score split by a column.

The arithmetic is in ``ood.py`` and ``fairness.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from dinov2_core.errors import UserError
from dinov2_core.evaluate import fairness, ood
from dinov2_core.evaluate.datasets.labelled import LabelledSet, Split
from dinov2_core.evaluate.datasets.layout import lines
from dinov2_core.evaluate.knn import knn_predict
from dinov2_core.evaluate.model import EvalModel
from dinov2_core.evaluate.probe_features import probe_features
from dinov2_core.evaluate.protocol import Context, NotApplicableError, Protocol, Score, Scores


@dataclass(frozen=True)
class OodSet:
    """``inside``: train is what is known, test shall be recognised as such; ``outside``: shall not."""

    kind: ClassVar[str] = "ood"
    name: str
    inside: LabelledSet
    outside: Split


@dataclass(frozen=True)
class OodOptions:
    """``k``: whose cosine is the score, the k-th neighbour's."""

    k: int = 50


@dataclass(frozen=True)
class FairnessOptions:
    """``column``: a file with a value a line, in the order of the test images; ``k`` of the k-NN classifier."""

    column: str = ""
    k: int = 20


def run_ood(model: EvalModel, data: OodSet, options: OodOptions, context: Context) -> Scores:
    """AUROC and FPR95; intervals draw images of both kinds."""
    splits = (data.inside.train, data.inside.test, data.outside)
    train, known, unknown = (torch.from_numpy(probe_features(model, s, context).last) for s in splits)
    inside, outside = (ood.knn_scores(train, side, k=options.k) for side in (known, unknown))
    rng = np.random.default_rng(context.seed)
    draws = [(rng.choice(inside, len(inside)), rng.choice(outside, len(outside))) for _ in range(300)]
    scores = []
    for name, function in (("AUROC", ood.auroc), ("FPR95", ood.fpr_at_tpr)):
        low, high = np.quantile([function(a, b) for a, b in draws], [0.025, 0.975])
        scores.append(Score(name, function(inside, outside), float(low), float(high), len(inside) + len(outside)))
    return Scores("ood", data.name, tuple(scores), {"k": options.k})


def run_fairness(model: EvalModel, data: LabelledSet, options: FairnessOptions, context: Context) -> Scores:
    """k-NN accuracy of each group, worst first, and the gap between the best and the worst."""
    if not options.column:
        raise NotApplicableError("no column to split by", todo="set `column` to a file with a value a line")
    column = lines(Path(options.column))
    if len(column) != len(data.test):
        raise UserError(f"{len(column)} values for {len(data.test)} test images", where=options.column)
    train, test = (torch.from_numpy(probe_features(model, s, context).last) for s in (data.train, data.test))
    predicted = knn_predict(train, torch.from_numpy(data.train.labels), test, k=options.k).numpy()
    found = fairness.split(predicted == data.test.labels, column, seed=context.seed)
    scores = [Score(f"accuracy {g.name}", g.score.value, g.score.low, g.score.high, g.count) for g in found.groups]
    scores.append(Score("gap", found.gap.value, found.gap.low, found.gap.high, len(column)))
    return Scores("fairness", data.name, tuple(scores), {"column": options.column})


OOD = Protocol("ood", "beyond the paper", "ood", OodOptions, run_ood)
FAIRNESS = Protocol("fairness", "beyond the paper", "labelled", FairnessOptions, run_fairness)
