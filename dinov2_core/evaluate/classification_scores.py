"""What the literature reports of classifications: accuracy, mean per class, average precision; with intervals."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinov2_core.evaluate.datasets.labelled import Metric
from dinov2_core.evaluate.protocol import Score, score

_DRAWS = 1000


def mean_per_class(predicted: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    """The mean over the classes that occur in ``truth`` of each one's accuracy; both ``[N]``."""
    right = np.bincount(truth, weights=predicted == truth)
    count = np.bincount(truth)
    return float((right[count > 0] / count[count > 0]).mean())


def average_precision(scores: NDArray[np.floating], truth: NDArray[np.int64]) -> float:
    """Area under the precision-recall steps (VOC from 2010 on; scikit-learn's); equal scores are one threshold.

    Args:
        scores: ``[N]``; ``truth``: ``[N]`` of 1, 0 and -1 (not scored).

    Returns:
        NaN where nothing is positive.
    """
    scores, truth = scores[truth >= 0], truth[truth >= 0]
    if not (truth == 1).any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    ends = np.r_[np.flatnonzero(np.diff(scores[order])), len(scores) - 1]
    hits = np.cumsum(truth[order])[ends]
    return float((np.diff(np.r_[0, hits]) * hits / (ends + 1)).sum() / hits[-1])


def mean_average_precision(scores: NDArray[np.floating], truth: NDArray[np.int64]) -> float:
    """The mean over the classes that have a positive; both ``[N, K]``. NaN where none has."""
    each = [average_precision(scores[:, k], truth[:, k]) for k in range(truth.shape[1])]
    return float(np.nanmean(each)) if not np.isnan(each).all() else float("nan")


def classification_score(
    predicted: NDArray[Any], truth: NDArray[np.int64], metric: Metric, *, note: str = "", prefix: str = ""
) -> Score:
    """``predicted [N]`` classes (for mAP: ``[N, K]`` scores) by the data set's own metric."""
    name = f"{prefix}{metric}"
    if metric == "accuracy":
        return score(name, predicted == truth, note=note)
    rng = np.random.default_rng(0)
    function = mean_per_class if metric == "mean per class" else mean_average_precision
    draws = [
        function(predicted[rows], truth[rows])
        for rows in (rng.integers(len(truth), size=len(truth)) for _ in range(_DRAWS if metric != "mAP" else 100))
    ]
    low, high = np.nanquantile(draws, [0.025, 0.975])
    return Score(name, function(predicted, truth), float(low), float(high), len(truth), note)
