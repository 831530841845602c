"""Mean intersection over union, exact over a whole data set, with what a bootstrap over images needs.

Heads, windows and data sets do not belong here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dinov2_core.evaluate.bootstrap import Interval


@dataclass
class Counts:
    """Pixels of each class, image by image: in both, predicted, true. Memory is ``3 · classes`` numbers an image."""

    classes: int
    rows: list[NDArray[np.int64]] = field(default_factory=list)

    def add(self, predicted: NDArray, truth: NDArray, *, ignore: int = 255) -> None:
        """Count one image. ``predicted`` and ``truth`` are ``[H, W]`` integers; where truth is ``ignore``, nothing is.

        Raises:
            ValueError: sizes differ, or a class lies outside ``0 … classes - 1``.
        """
        if predicted.shape != truth.shape:
            raise ValueError(f"prediction of {predicted.shape} and truth of {truth.shape} pixels")
        seen = truth != ignore
        p, t = predicted[seen].astype(np.int64), truth[seen].astype(np.int64)
        for name, values in (("predicted", p), ("true", t)):
            if values.size and not 0 <= values.min() <= values.max() < self.classes:
                raise ValueError(f"a {name} class lies outside 0…{self.classes - 1}")
        both = np.bincount(t[p == t], minlength=self.classes)
        row = (both, np.bincount(p, minlength=self.classes), np.bincount(t, minlength=self.classes))
        self.rows.append(np.stack(row))

    @property
    def table(self) -> NDArray[np.int64]:
        """``[images, 3, classes]``."""
        return np.stack(self.rows) if self.rows else np.zeros((0, 3, self.classes), np.int64)

    def iou(self) -> NDArray[np.float64]:
        """``[classes]``; NaN for a class that is neither predicted nor true anywhere."""
        return _iou(self.table.sum(axis=0))

    def mean_iou(self) -> float:
        """Over the classes that occur."""
        return float(np.nanmean(self.iou()))

    def pixel_accuracy(self) -> float:
        both, _, true = self.table.sum(axis=0)
        return float(both.sum() / true.sum())

    def interval(self, *, level: float = 0.95, draws: int = 1000, seed: int = 0) -> Interval:
        """Mean IoU with a percentile bootstrap over images."""
        table = self.table.astype(np.float64)
        rng = np.random.default_rng(seed)
        counts = rng.multinomial(len(table), np.full(len(table), 1 / len(table)), size=draws)
        sums = (counts @ table.reshape(len(table), -1)).reshape(draws, 3, self.classes)
        low, high = np.quantile(np.nanmean(_iou(sums), axis=-1), [(1 - level) / 2, (1 + level) / 2])
        return Interval(self.mean_iou(), float(low), float(high))


def merge(parts: Sequence[Counts]) -> Counts:
    """The counts of several processes, in their order."""
    return Counts(parts[0].classes, [row for part in parts for row in part.rows])


def _iou(sums: NDArray) -> NDArray[np.float64]:
    """``[…, 3, C] → […, C]``."""
    both, predicted, true = np.moveaxis(np.asarray(sums, dtype=np.float64), -2, 0)
    union = predicted + true - both
    return np.divide(both, union, out=np.full(union.shape, np.nan), where=union > 0)
