"""A score split by a column (income, region, camera, …): each group with its interval, and the gap between groups.

As in the paper's table 12, which splits DollarStreet by income and region. What the column means is the reader's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dinov2_core.errors import UserError
from dinov2_core.evaluate.bootstrap import Interval, mean_interval


@dataclass(frozen=True)
class Group:
    """One value of the column: how many images have it, and their mean score with its interval."""

    name: str
    count: int
    score: Interval


@dataclass(frozen=True)
class Split:
    """``groups`` by rising score; ``gap``: the best minus the worst, with its interval (images drawn in each group)."""

    groups: tuple[Group, ...]
    gap: Interval


def split(
    scores: ArrayLike, column: Sequence[str | None], *, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> Split:
    """Split one score an image (``[Q]``, 1 where right) by ``column`` (``[Q]``).

    Raises:
        UserError: lengths differ, an image has no value, or there is only one group.
    """
    values = np.asarray(scores, dtype=np.float64)
    if len(values) != len(column):
        raise UserError(f"{len(values)} scores and {len(column)} values of the column", todo="one value an image")
    if empty := [i for i, name in enumerate(column) if name is None or not str(name).strip()]:
        raise UserError(
            f"{len(empty)} images have no value in the column (the first is row {empty[0]})",
            todo="fill the column, 'unknown' if need be: left out images would move the gap",
        )
    names = np.array([str(name) for name in column])
    members: dict[str, NDArray[np.float64]] = {name: values[names == name] for name in sorted(set(names.tolist()))}
    if len(members) < 2:
        raise UserError("the column has a single value: there is no gap", todo="name another column")
    groups = [Group(n, len(v), mean_interval(v, level=level, draws=draws, seed=seed)) for n, v in members.items()]
    groups.sort(key=lambda g: (g.score.value, g.name))
    low, high = _gap_interval(list(members.values()), level, draws, seed)
    return Split(tuple(groups), Interval(groups[-1].score.value - groups[0].score.value, low, high))


def _gap_interval(members: list[NDArray[np.float64]], level: float, draws: int, seed: int) -> tuple[float, float]:
    rng = np.random.default_rng(seed)
    means = []
    for v in members:
        counts = rng.multinomial(len(v), np.full(len(v), 1 / len(v)), size=draws)
        means.append(counts @ v / len(v))
    table = np.stack(means)
    low, high = np.quantile(table.max(axis=0) - table.min(axis=0), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
