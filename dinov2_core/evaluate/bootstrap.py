"""Bootstrap intervals of a score, and of the difference of two scores on the same images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Interval:
    """A mean and its percentile bootstrap interval."""

    value: float
    low: float
    high: float


def mean_interval(scores: ArrayLike, *, level: float = 0.95, draws: int = 2000, seed: int = 0) -> Interval:
    """Interval of the mean of one score an image (``[Q]``, e.g. 1 where right); images are drawn with replacement."""
    values = np.asarray(scores, dtype=np.float64)
    if not values.size:
        raise ValueError("no scores")
    rng = np.random.default_rng(seed)
    # Drawing Q of Q images is a multinomial over how often each comes up.
    counts = rng.multinomial(values.size, np.full(values.size, 1 / values.size), size=draws)
    means = counts @ values / values.size
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values.mean()), float(low), float(high))


def paired_difference(
    ours: ArrayLike, theirs: ArrayLike, *, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> Interval:
    """Interval of ``mean(ours) - mean(theirs)``, both scored on the same images in the same order."""
    one, two = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    if one.shape != two.shape:
        raise ValueError(f"scores of {one.shape} and {two.shape} images are not pairs")
    return mean_interval(one - two, level=level, draws=draws, seed=seed)
