"""The linear protocol: the grid of heads, and two ways of choosing one, told apart.

The paper picks the head that is best on the validation set that it reports (appendix B.3). Here the first number is of
the head that is best on a part of train.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dinov2_core.evaluate import shares
from dinov2_core.evaluate.answer_figures import classification_figures, softmax
from dinov2_core.evaluate.augment_crops import augmented
from dinov2_core.evaluate.classification_scores import classification_score
from dinov2_core.evaluate.datasets.labelled import LabelledSet
from dinov2_core.evaluate.knn_protocol import one_label
from dinov2_core.evaluate.linear_grid import PAPER_RATES, Head, LinearGrid
from dinov2_core.evaluate.logistic import hold_out
from dinov2_core.evaluate.model import EvalModel
from dinov2_core.evaluate.probe_features import probe_features
from dinov2_core.evaluate.protocol import Context, Protocol, Scores
from dinov2_core.progress import track

PAPER_BATCH = 1024


@dataclass(frozen=True)
class LinearOptions:
    """``rates`` are for 1024 images a step and scale with ``batch``. Paper: 12,500 steps of 1024, augmented.

    ``augment``: random crops and mirrors of the images, a backbone pass a step; else the cached features.
    """

    steps: int = 12_500
    batch: int = 128
    rates: tuple[float, ...] = PAPER_RATES
    blocks: tuple[int, ...] = (1, 4)
    mean_patch: tuple[bool, ...] = (False, True)
    holdout: float = 0.1
    augment: bool = False


@dataclass(frozen=True)
class Fitted:
    """The trained grid, the hold-out accuracy of each head, and the head it chose."""

    grid: LinearGrid
    holdout: np.ndarray
    chosen: int

    @property
    def head(self) -> Head:
        return self.grid.heads[self.chosen]


def fit(model: EvalModel, data: LabelledSet, options: LinearOptions, context: Context) -> Fitted:
    """Train the grid on train without its hold-out and choose a head on that."""
    one_label(data)
    features = probe_features(model, data.train, context)
    kept, held = hold_out(data.train.labels, options.holdout, seed=context.seed)
    scale = options.batch / PAPER_BATCH
    grid = LinearGrid(
        features.cls.shape[2],
        features.cls.shape[1],
        len(data.classes),
        steps=options.steps,
        rates=tuple(rate * scale for rate in options.rates),
        blocks=options.blocks,
        mean_patch=options.mean_patch,
        seed=context.seed,
    )
    cls, mean = torch.from_numpy(np.array(features.cls)), torch.from_numpy(np.array(features.mean))
    labels = torch.from_numpy(data.train.labels)

    def batches() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(context.seed)
        pool = torch.from_numpy(kept)
        for _ in track(range(options.steps), f"linear heads on {data.name}", options.steps):
            rows = pool[torch.randint(len(pool), (options.batch,), generator=generator)]
            if options.augment:
                images = augmented([data.train.pictures[i] for i in rows], model.preprocessing.size, generator)
                cls_, mean_ = shares.rows(lambda part: list(model.probe_features(part)), images)
                yield cls_, mean_, labels[rows]
            else:
                yield cls[rows], mean[rows], labels[rows]

    grid.train(batches())
    right = grid.predict(cls[held], mean[held]) == data.train.labels[held]
    accuracy = right.mean(axis=1)
    return Fitted(grid, accuracy, int(accuracy.argmax()))


def run_linear(model: EvalModel, data: LabelledSet, options: LinearOptions, context: Context) -> Scores:
    """The head chosen on the hold-out, and the one chosen on the test split, labelled so."""
    fitted = fit(model, data, options, context)
    test = probe_features(model, data.test, context)
    found = fitted.grid.predict(torch.from_numpy(np.array(test.cls)), torch.from_numpy(np.array(test.mean)))
    truth = data.test.labels
    best = int((found == truth).mean(axis=1).argmax())
    honest = classification_score(found[fitted.chosen], truth, data.metric, note="head chosen on a hold-out of train")
    papers = classification_score(
        found[best], truth, data.metric, prefix="paper's choice: ", note="head chosen on the split that is scored"
    )
    details = {
        "chosen": str(fitted.head),
        "chosen on test": str(fitted.grid.heads[best]),
        "heads": [
            {"head": str(h), "holdout": float(v), "test": float(t)}
            for h, v, t in zip(fitted.grid.heads, fitted.holdout, (found == truth).mean(axis=1), strict=True)
        ],
    }
    logits = fitted.grid.logits(fitted.head, *(torch.from_numpy(np.array(x)) for x in (test.cls, test.mean)))
    drawn = classification_figures("linear", softmax(logits), truth, data.classes)
    return Scores("linear", data.name, (honest, papers), details, drawn)


LINEAR = Protocol("linear", "classification", "labelled", LinearOptions, run_linear)
