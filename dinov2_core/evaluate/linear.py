"""A linear probe: logistic regression on frozen features, its strength chosen on a part of train, never on test."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from dinov2_core.evaluate.logistic import hold_out, path


@dataclass(frozen=True)
class LinearProbe:
    """``predictions [Q]``, the inverse regularisation ``c`` that was chosen, its accuracy on the hold-out."""

    predictions: NDArray[np.int64]
    c: float
    holdout_accuracy: float


def linear_probe(
    train: NDArray[np.float32],
    labels: NDArray[np.int64],
    test: NDArray[np.float32],
    *,
    grid: tuple[float, ...] = (0.001, 0.01, 0.1),
    holdout: float = 0.1,
    max_iter: int = 100,
    seed: int = 0,
) -> LinearProbe:
    """Fit on ``1 - holdout`` of train for each C, keep the best, fit it on all of train, predict test.

    Features are standardised by train. ``train [N, D]``, ``labels [N]``, ``test [Q, D]``.
    """
    mean, std = train.mean(axis=0), train.std(axis=0) + 1e-6
    one, two = (train - mean) / std, (test - mean) / std
    kept, out = hold_out(labels, holdout, seed=seed)
    fit = partial(path, classes=int(labels.max()) + 1, max_iter=max_iter)
    scores = [float((s.predict(one[out]) == labels[out]).mean()) for s in fit(one[kept], labels[kept], grid)]
    best = int(np.argmax(scores))
    final = fit(one, labels, sorted(c for c in grid if c <= grid[best]))[-1]
    return LinearProbe(final.predict(two), grid[best], scores[best])
