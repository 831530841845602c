"""A linear probe: logistic regression on frozen features, its strength chosen on a part of train, never on test."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


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
    order = np.random.default_rng(seed).permutation(len(one))
    held = max(1, round(holdout * len(one)))
    kept, out = order[held:], order[:held]
    scores = [float((_fit(one[kept], labels[kept], c, max_iter).predict(one[out]) == labels[out]).mean()) for c in grid]
    best = int(np.argmax(scores))
    return LinearProbe(_fit(one, labels, grid[best], max_iter).predict(two), grid[best], scores[best])


def _fit(features: NDArray[np.float32], labels: NDArray[np.int64], c: float, max_iter: int) -> Any:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        # A fixed number of iterations is the protocol; stopping early is not an error.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(C=c, max_iter=max_iter, tol=1e-3).fit(features, labels)
