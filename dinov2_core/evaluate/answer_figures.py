"""What a classification's or a search's answers look like: confusion, reliability, rows of neighbours.

Drawing is in ``charts.py`` and ``pictures.py``; here is what of the answers is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from dinov2_core.evaluate import charts, pictures
from dinov2_core.evaluate.figures import Figure
from dinov2_core.evaluate.pictures import Rgb

SHOWN = 40
"""Most classes of a confusion matrix; of more, those with the most wrong answers."""
RIGHT, WRONG = (28, 124, 77), (190, 50, 45)
_SIDE = 96


def classification_figures(
    protocol: str, shares: NDArray[np.floating], truth: NDArray[np.int64], classes: Sequence[str]
) -> tuple[Figure, ...]:
    """The confusion matrix, and the reliability of the largest share.

    Args:
        shares: ``[N, K]``, each row sums to 1.
        truth: ``[N]``.
    """
    predicted = shares.argmax(axis=1)
    counts = charts.confusion(predicted, truth, len(classes))
    caption = f"{protocol}: rows are true classes, columns what was answered"
    names = list(classes)
    if len(names) > SHOWN:
        wrong = counts.sum(axis=1) + counts.sum(axis=0) - 2 * np.diag(counts)
        chosen = np.sort(np.argsort(-wrong, kind="stable")[:SHOWN])
        counts, names = counts[np.ix_(chosen, chosen)], [names[i] for i in chosen]
        caption += f"; the {SHOWN} of {len(classes)} classes with the most wrong answers"
    # Rounding takes sums of shares a little above 1.
    confidence = np.clip(shares.max(axis=1), 0, 1)
    curve = charts.reliability(confidence, predicted == truth)
    return (
        Figure(f"{protocol} confusion", caption, charts.confusion_svg(counts, names)),
        Figure(
            f"{protocol} reliability",
            f"{protocol}: how often answers are right, by the share of the likeliest class; "
            f"expected gap {100 * curve.ece:.1f} %",
            charts.reliability_svg(curve),
        ),
    )


def softmax(logits: NDArray[np.floating] | torch.Tensor) -> NDArray[np.float64]:
    """``[N, K]`` → shares."""
    return np.asarray(torch.as_tensor(logits).double().softmax(dim=1).numpy())


def neighbour_figure(
    protocol: str,
    query: Callable[[int], Rgb],
    gallery: Callable[[int], Rgb],
    found: NDArray[np.int64],
    right: NDArray[np.bool_],
    *,
    rows: int = 6,
    count: int = 6,
) -> Figure:
    """Queries, evenly chosen, each with its nearest of the gallery; right ones in green, others in red.

    Args:
        query, gallery: number → pixels.
        found: ``[Q, k]`` gallery numbers, the nearest first; ``right [Q, k]``.
    """
    chosen = np.unique(np.linspace(0, len(found) - 1, min(rows, len(found))).round().astype(int))
    lines = []
    for q in chosen:
        near = zip(found[q, :count], right[q, :count], strict=True)
        small = [pictures.framed(_small(gallery(int(i))), RIGHT if good else WRONG) for i, good in near]
        lines.append(pictures.row([_small(query(int(q))), *small], side=_SIDE))
    caption = f"{protocol}: a query at the left, then its nearest; green is the same class or instance, red another"
    return Figure(f"{protocol} neighbours", caption, pictures.stack(lines))


def _small(pixels: Rgb) -> Rgb:
    return pictures.enlarge(pixels, _SIDE, smooth=True)
