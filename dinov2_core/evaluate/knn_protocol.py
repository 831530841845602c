"""The k-NN protocols: the vote of neighbours in the whole train split, and in a few images a class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from dinov2_core.evaluate import knn
from dinov2_core.evaluate.answer_figures import classification_figures, neighbour_figure
from dinov2_core.evaluate.classification_scores import classification_score
from dinov2_core.evaluate.datasets.labelled import LabelledSet
from dinov2_core.evaluate.model import EvalModel
from dinov2_core.evaluate.probe_features import probe_features
from dinov2_core.evaluate.protocol import Context, NotApplicableError, Protocol, Score, Scores, score


@dataclass(frozen=True)
class KnnOptions:
    """``k``: neighbours that vote; ``memory``: bytes of similarities at once."""

    k: tuple[int, ...] = (10, 20, 100, 200)
    temperature: float = 0.07
    memory: int = knn.MEMORY


@dataclass(frozen=True)
class FewShotOptions(KnnOptions):
    """``shots``: images a class; ``tries``: draws of them."""

    shots: tuple[int, ...] = (1, 5, 10)
    tries: int = 5


def run_knn(model: EvalModel, data: LabelledSet, options: KnnOptions, context: Context) -> Scores:
    """One score for each k; pictures of the k that the paper reports (20), or the first."""
    one_label(data)
    train, test = (torch.from_numpy(probe_features(model, s, context).last) for s in (data.train, data.test))
    found = knn.nearest(train, test, max(options.k), memory=options.memory)
    labels = torch.from_numpy(data.train.labels)
    scores = [
        classification_score(
            knn.vote(found, labels, k, temperature=options.temperature), data.test.labels, data.metric, prefix=f"k={k} "
        )
        for k in options.k
    ]
    shown = 20 if 20 in options.k else options.k[0]
    shares = knn.votes(found, labels, shown, temperature=options.temperature, classes=len(data.classes))
    index = found.index.numpy()
    neighbours = neighbour_figure(
        "knn",
        lambda i: data.test.pictures[i].pixels(),
        lambda i: data.train.pictures[i].pixels(),
        index,
        data.train.labels[index] == data.test.labels[:, None],
    )
    drawn = classification_figures(f"knn k={shown}", shares, data.test.labels, data.classes)
    return Scores("knn", data.name, tuple(scores), figures=(neighbours, *drawn))


def run_few_shot(model: EvalModel, data: LabelledSet, options: FewShotOptions, context: Context) -> Scores:
    """One score for each number of images: the mean over the tries, images drawn again for the interval."""
    one_label(data)
    train, test = (torch.from_numpy(probe_features(model, s, context).last) for s in (data.train, data.test))
    labels, scores, skipped = torch.from_numpy(data.train.labels), list[Score](), []
    smallest = int(labels.bincount(minlength=len(data.classes)).min())
    for shots in options.shots:
        if shots > smallest:
            skipped.append(f"{shots} images a class: a class has {smallest}")
            continue
        tries = []
        for rows in knn.few_shot(labels, shots, tries=options.tries, seed=context.seed):
            # More neighbours than images a class would always bring in other classes.
            found = knn.nearest(train[rows], test, min(max(options.k), shots), memory=options.memory)
            predicted = knn.vote(found, labels[rows], shots, temperature=options.temperature)
            tries.append(predicted == data.test.labels)
        spread = float(np.std([t.mean() for t in tries]))
        each = np.mean(tries, axis=0)
        scores.append(score(f"{shots} a class", each, note=f"mean of {options.tries} draws, deviation {spread:.4f}"))
    if not scores:
        raise NotApplicableError("; ".join(skipped), where=data.name, todo="ask for fewer images a class")
    return Scores("knn-few-shot", data.name, tuple(scores), {"skipped": skipped})


def one_label(data: LabelledSet) -> None:
    """NotApplicableError where images have several labels."""
    if data.train.labels.ndim != 1:
        raise NotApplicableError("images have several labels", where=data.name, todo="use the protocol 'logistic'")


KNN = Protocol("knn", "classification", "labelled", KnnOptions, run_knn)
FEW_SHOT = Protocol("knn-few-shot", "classification", "labelled", FewShotOptions, run_few_shot)
