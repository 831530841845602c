"""Logistic regression over 45 strengths: our path against scikit-learn's lbfgs, one fit after another.

``python -m benchmarks.logistic --rows 10000``
"""

from __future__ import annotations

import argparse
import time
import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from dinov2_core.evaluate.logistic import PAPER_C, path


def features(rows: int, dim: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping classes with the falling spectrum that features of networks have."""
    rng = np.random.default_rng(0)
    spectrum = np.arange(1, dim + 1) ** -0.5
    centers = rng.normal(size=(classes, dim)) * 0.12
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=rows)
    return ((centers[labels] + rng.normal(size=(rows, dim))) * spectrum * 4).astype(np.float32), labels


def main() -> None:
    """Print seconds and test accuracies of both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--every", type=int, default=1, help="fit every n-th strength")
    options = parser.parse_args()
    train, labels = features(options.rows, options.dim, options.classes, 1)
    test, truth = features(options.rows, options.dim, options.classes, 2)
    strengths = PAPER_C[:: options.every]
    start = time.perf_counter()
    ours = path(train, labels, strengths)
    seconds = time.perf_counter() - start
    mine = np.array([(s.predict(test) == truth).mean() for s in ours])
    print(
        f"ours          {seconds:8.1f} s, best {mine.max():.4f}, iterations {sum(s.iterations for s in ours)}",
        flush=True,
    )
    start = time.perf_counter()
    theirs, iterations = [], 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for c in strengths:
            fit = LogisticRegression(C=c, max_iter=1000).fit(train.astype(np.float64), labels)
            theirs.append((fit.predict(test) == truth).mean())
            iterations += int(fit.n_iter_[0])
    theirs_seconds = time.perf_counter() - start
    print(f"scikit-learn  {theirs_seconds:8.1f} s, best {max(theirs):.4f}, iterations {iterations}")
    print(f"{theirs_seconds / seconds:.1f} × faster; largest difference in accuracy {np.abs(mine - theirs).max():.4f}")


if __name__ == "__main__":
    main()
