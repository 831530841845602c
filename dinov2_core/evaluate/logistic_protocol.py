"""The logistic-regression protocol (paper, section 7.2): 45 strengths, the best on a part of train, then all of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from dinov2_core.evaluate.answer_figures import classification_figures, softmax
from dinov2_core.evaluate.classification_scores import classification_score, mean_average_precision, mean_per_class
from dinov2_core.evaluate.datasets.labelled import LabelledSet
from dinov2_core.evaluate.logistic import PAPER_C, Solution, hold_out, path
from dinov2_core.evaluate.model import EvalModel
from dinov2_core.evaluate.probe_features import probe_features
from dinov2_core.evaluate.protocol import Context, Protocol, Scores


@dataclass(frozen=True)
class LogisticOptions:
    """``strengths``: the values of C. ``holdout``: the share of train that chooses among them."""

    strengths: tuple[float, ...] = PAPER_C
    holdout: float = 0.1
    max_iter: int = 1000


def run_logistic(model: EvalModel, data: LabelledSet, options: LogisticOptions, context: Context) -> Scores:
    """The strength is chosen on the hold-out; weights are then fitted to all of train."""
    train, test = (probe_features(model, split, context).last for split in (data.train, data.test))
    labels, classes = data.train.labels, len(data.classes)
    kept, held = hold_out(labels, options.holdout, seed=context.seed)
    fit = partial(path, classes=classes, max_iter=options.max_iter)
    tried = fit(train[kept], labels[kept], options.strengths, label=f"logistic on {data.name}")
    scores = [_plain(s, train[held], labels[held], data) for s in tried]
    best = int(np.nanargmax(scores))
    upto = sorted(c for c in options.strengths if c <= options.strengths[best])
    final = fit(train, labels, upto)[-1]
    found = final.scores(test) if data.metric == "mAP" else final.predict(test)
    value = classification_score(found, data.test.labels, data.metric, note="C chosen on a hold-out of train")
    details = {"C": final.c, "holdout": scores[best]}
    if data.metric == "mAP":
        return Scores("logistic", data.name, (value,), details)
    drawn = classification_figures("logistic", softmax(final.scores(test)), data.test.labels, data.classes)
    return Scores("logistic", data.name, (value,), details, drawn)


def _plain(solution: Solution, features: np.ndarray, labels: np.ndarray, data: LabelledSet) -> float:
    if data.metric == "mAP":
        return mean_average_precision(solution.scores(features), labels)
    predicted = solution.predict(features)
    return mean_per_class(predicted, labels) if data.metric == "mean per class" else float((predicted == labels).mean())


LOGISTIC = Protocol("logistic", "classification", "labelled", LogisticOptions, run_logistic)
