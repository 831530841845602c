"""What a protocol is: from a model and a data set to scores, each with its interval.

A protocol's own module holds its settings and its arithmetic; which protocols there are stands in ``protocols.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dinov2_core.errors import UserError
from dinov2_core.evaluate.bootstrap import mean_interval
from dinov2_core.evaluate.cache import FeatureCache
from dinov2_core.evaluate.figures import Figure
from dinov2_core.evaluate.model import EvalModel


@dataclass(frozen=True)
class Score:
    """One number: ``value`` with its 95 % bootstrap interval ``low`` to ``high``, over ``n`` images.

    ``note`` says how it was chosen where that matters ("chosen on the test split"). ``share``: tables show per cent.
    """

    name: str
    value: float
    low: float
    high: float
    n: int
    note: str = ""
    share: bool = True


@dataclass(frozen=True)
class Scores:
    """What one protocol gave on one data set. ``details``: plain values that belong in the JSON (chosen settings);
    ``figures``: what stands beside the numbers on the page."""

    protocol: str
    dataset: str
    scores: tuple[Score, ...]
    details: Mapping[str, Any] = field(default_factory=dict)
    figures: tuple[Figure, ...] = field(default=(), compare=False, repr=False)

    def named(self, name: str) -> Score:
        """The score of that name; KeyError where there is none."""
        for score in self.scores:
            if score.name == name:
                return score
        raise KeyError(name)


@dataclass(frozen=True)
class Context:
    """What a run shares between protocols: the feature cache, images a forward pass, extraction processes."""

    cache: FeatureCache
    batch: int = 64
    processes: int = 1
    seed: int = 0


@dataclass(frozen=True)
class Protocol:
    """``needs`` is the kind of data set (the ``kind`` of its class); ``options`` a frozen dataclass of settings.

    ``run(model, data, options, context)`` gives :class:`Scores`.
    """

    name: str
    family: str
    needs: str
    options: type[Any]
    run: Callable[[EvalModel, Any, Any, Context], Scores]


class NotApplicableError(UserError):
    """The protocol has no meaning on this data (several labels an image, too few images): ``all`` goes on."""


def score(name: str, each: ArrayLike, *, note: str = "", seed: int = 0, share: bool = True) -> Score:
    """The mean of one score an image (``[N]``), with its interval."""
    values: NDArray[np.float64] = np.asarray(each, dtype=np.float64)
    interval = mean_interval(values, seed=seed)
    return Score(name, interval.value, interval.low, interval.high, len(values), note, share)
