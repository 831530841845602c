"""A confusion matrix and a reliability curve as SVG that stands alone, and the numbers they show.

Other charts are the report's (``dinov2_core/report/charts.py``); pictures of images are in ``pictures.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import ArrayLike, NDArray

_BLUE = "#2563eb"


def confusion(predicted: ArrayLike, truth: ArrayLike, classes: int) -> NDArray[np.int64]:
    """``[classes, classes]`` counts: rows are true, columns predicted."""
    p, t = np.asarray(predicted, np.int64), np.asarray(truth, np.int64)
    return np.bincount(t * classes + p, minlength=classes * classes).reshape(classes, classes)


@dataclass(frozen=True)
class Reliability:
    """A bin a row: mean ``confidence`` and ``accuracy`` (NaN where empty) and ``count``; ``ece`` the expected gap."""

    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    count: NDArray[np.int64]
    ece: float


def reliability(confidence: ArrayLike, right: ArrayLike, *, bins: int = 10) -> Reliability:
    """How often answers are right, by stated confidence (0 to 1), in ``bins`` equal bins; a bin holds its upper end."""
    c, r = np.asarray(confidence, np.float64), np.asarray(right, np.float64)
    if c.size and not (c.min() >= 0 and c.max() <= 1):
        raise ValueError("a confidence is not between 0 and 1")
    place = np.clip(np.ceil(c * bins).astype(int) - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean, accuracy = (np.bincount(place, weights=v, minlength=bins) / count for v in (c, r))
    gaps = np.abs(np.nan_to_num(mean - accuracy))
    return Reliability(mean, accuracy, count, float((gaps * count).sum() / max(count.sum(), 1)))


def confusion_svg(counts: NDArray[np.int64], names: Sequence[str]) -> str:
    """Shares of each true class as blues; counts in the cells up to 20 classes, names up to 60."""
    n, size = len(names), max(8, min(36, 720 // max(len(names), 1)))
    left = top = 110 if n <= 60 else 24
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    parts = []
    for y in range(n):
        for x in range(n):
            box = f'x="{left + x * size}" y="{top + y * size}" width="{size - 1}" height="{size - 1}"'
            tip = f"<title>{escape(names[y])} as {escape(names[x])}: {counts[y, x]}</title>"
            parts.append(f'<rect {box} fill="{_BLUE}" fill-opacity="{max(shares[y, x], 0.04):.2f}">{tip}</rect>')
            if n <= 20 and counts[y, x]:
                colour = "#fff" if shares[y, x] > 0.5 else "#111"
                at = f'x="{left + (x + 0.5) * size:.1f}" y="{top + (y + 0.5) * size + 4:.1f}"'
                parts.append(f'<text {at} text-anchor="middle" fill="{colour}">{counts[y, x]}</text>')
    if n <= 60:
        for i, name in enumerate(names):
            down, across = top + (i + 0.5) * size + 4, left + (i + 0.5) * size
            parts.append(f'<text x="{left - 6}" y="{down:.1f}" text-anchor="end">{escape(name[:16])}</text>')
            turn = f'transform="translate({across + 4:.1f} {top - 6}) rotate(-60)"'
            parts.append(f"<text {turn}>{escape(name[:16])}</text>")
    return _svg(parts, left + n * size + 4, top + n * size + 4, "Confusion matrix: rows are true, columns predicted")


def reliability_svg(found: Reliability) -> str:
    """Accuracy over confidence, the diagonal as what a calibrated model gives; dots grow with their bin."""
    side, left, top = 260, 44, 12

    def at(x: float, y: float) -> str:
        return f"{left + side * x:.1f} {top + side * (1 - y):.1f}"

    parts = [f'<path d="M{at(0, 0)} L{at(1, 1)}" stroke="#999" stroke-dasharray="4 4" fill="none"/>']
    parts.append(f'<path d="M{at(0, 1)} L{at(0, 0)} L{at(1, 0)}" stroke="#999" fill="none"/>')
    known = [i for i in range(len(found.count)) if found.count[i]]
    line = " L".join(at(found.confidence[i], found.accuracy[i]) for i in known)
    parts.append(f'<path d="M{line}" stroke="{_BLUE}" stroke-width="2" fill="none"/>' if known else "")
    for i in known:
        x, y = at(found.confidence[i], found.accuracy[i]).split()
        radius = 2 + 5 * (found.count[i] / found.count.max()) ** 0.5
        tip = f"<title>{found.count[i]} answers</title>"
        parts.append(f'<circle cx="{x}" cy="{y}" r="{radius:.1f}" fill="{_BLUE}">{tip}</circle>')
    for mark in (0, 0.5, 1):
        x, y = at(mark, mark).split()
        parts.append(f'<text x="{x}" y="{top + side + 16}" text-anchor="middle">{mark:g}</text>')
        parts.append(f'<text x="{left - 6}" y="{y}" text-anchor="end">{mark:g}</text>')
    parts.append(f'<text x="{left + 10}" y="{top + 14}">expected gap {100 * found.ece:.1f} %</text>')
    return _svg(parts, left + side + 16, top + side + 24, "Reliability: accuracy over confidence")


def _svg(parts: Sequence[str], width: int, height: int, title: str) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    font = 'font-family="sans-serif" font-size="11" role="img"'
    return f"{head} {font}><title>{escape(title)}</title>{''.join(parts)}</svg>"
