"""Charts as inline SVG: colours come from the page's style sheet, so that they follow light and dark.

Each returns safe markup; labels are escaped. Numbers are written with fixed digits: equal data give equal bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 480, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 12, 10, 26


@dataclass(frozen=True)
class Interval:
    """One line of :func:`intervals`: a value with its interval, all between 0 and 1; ``main`` stands out."""

    label: str
    value: float
    low: float
    high: float
    main: bool = False


def line(points: Sequence[tuple[float, float]], *, title: str, x_label: str = "step") -> Markup:
    """A curve through ``points`` (x rising). Points that are not finite are left out."""
    known = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    if len(known) < 2:
        return Markup("")
    xs, ys = [x for x, _ in known], [y for _, y in known]
    marks = ticks(min(ys), max(ys))
    low, high = min(marks[0], min(ys)), max(marks[-1], max(ys))
    left, right = min(xs), max(xs)

    def across(x: float) -> float:
        return _LEFT + (x - left) / (right - left or 1) * (WIDTH - _LEFT - _RIGHT)

    def down(y: float) -> float:
        return _TOP + (high - y) / (high - low or 1) * (HEIGHT - _TOP - _BOTTOM)

    body = [
        f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{down(m):.1f}" y2="{down(m):.1f}"/>'
        f'<text class="tick" x="{_LEFT - 6}" y="{down(m) + 4:.1f}" text-anchor="end">{m:.4g}</text>'
        for m in marks
    ]
    body += [
        f'<text class="tick" x="{across(m):.1f}" y="{HEIGHT - 8}" text-anchor="{anchor}">{m:,.0f}</text>'
        for m, anchor in ((left, "start"), ((left + right) / 2, "middle"), (right, "end"))
    ]
    path = " ".join(f"{'M' if i == 0 else 'L'}{across(x):.1f} {down(y):.1f}" for i, (x, y) in enumerate(known))
    body.append(f'<path class="curve" d="{path}"/>')
    body.append(f'<circle class="end" cx="{across(xs[-1]):.1f}" cy="{down(ys[-1]):.1f}" r="3.5"/>')
    said = f"{title}: {ys[0]:.4g} at {x_label} {xs[0]:,.0f}, {ys[-1]:.4g} at {x_label} {xs[-1]:,.0f}"
    return _svg(body, HEIGHT, said)


def intervals(rows: Sequence[Interval], *, title: str) -> Markup:
    """Values as dots on one scale (percent), their intervals as bars."""
    if not rows:
        return Markup("")
    marks = ticks(100 * min(r.low for r in rows), 100 * max(r.high for r in rows))
    low, high = marks[0], marks[-1]
    step, left, right = 32, 86, 56

    def across(value: float) -> float:
        return left + (100 * value - low) / (high - low or 1) * (WIDTH - left - right)

    height = step * len(rows) + 28
    body = [
        f'<line class="grid" x1="{across(m / 100):.1f}" x2="{across(m / 100):.1f}" y1="4" y2="{height - 24}"/>'
        f'<text class="tick" x="{across(m / 100):.1f}" y="{height - 8}" text-anchor="middle">{m:.4g}</text>'
        for m in marks
    ]
    for number, row in enumerate(rows):
        y = step * number + step / 2 + 4
        kind = "main" if row.main else "control"
        body.append(
            f'<text class="label" x="{left - 12}" y="{y + 4:.1f}" text-anchor="end">{escape(row.label)}</text>'
            f'<line class="bar {kind}" x1="{across(row.low):.1f}" x2="{across(row.high):.1f}" y1="{y}" y2="{y}"/>'
            f'<circle class="dot {kind}" cx="{across(row.value):.1f}" cy="{y}" r="5"/>'
            f'<text class="value" x="{WIDTH}" y="{y + 4:.1f}" text-anchor="end">{100 * row.value:.1f} %</text>'
        )
    said = f"{title}: " + ", ".join(f"{r.label} {100 * r.value:.1f} %" for r in rows)
    return _svg(body, height, said)


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers that enclose ``low`` to ``high``, at most ``most`` + 2 of them, rising."""
    if not high > low:
        low, high = low - 0.5, high + 0.5
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(n * step, 10) for n in range(first, last + 1)]


def _svg(body: Sequence[str], height: float, said: str) -> Markup:
    # Every text in ``body`` is a number or was escaped where it was put in.
    head = f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(said)}">'
    return Markup(head + "".join(body) + "</svg>")  # noqa: S704
