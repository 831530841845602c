"""The report's contents as one object, and that object as one HTML page or one Markdown text.

The page asks for nothing: pictures are ``data:`` URIs, charts inline, no script, and a policy in its head forbids the
rest. Everything is escaped; addresses of crawled pages are text and never links.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jinja2
from markupsafe import Markup, escape

from dinov2_core.evaluate.planted import Score
from dinov2_core.report.environment import environment
from dinov2_core.report.funnel import Step
from dinov2_core.report.gallery import Group, Neighbours, Pair, Picture


@dataclass(frozen=True)
class Chart:
    """An inline SVG under its title."""

    title: str
    svg: Markup


@dataclass(frozen=True)
class Drawn:
    """A figure of the evaluation; ``source`` is a ``data:`` URI."""

    caption: str
    source: str


@dataclass(frozen=True)
class Threshold:
    """A rule of the deduplication: the paper's number, the one in use, and what is expected of it."""

    name: str
    paper: str
    used: str
    expected: str = ""


@dataclass(frozen=True)
class Report:
    """All that the page says. ``versions`` maps ``stage/partition`` to a manifest's hash."""

    title: str
    funnel: Sequence[Step]
    training_images: int
    composition: Sequence[Mapping[str, Any]] = ()
    metrics: Sequence[Mapping[str, Any]] = ()
    accuracy: Sequence[Chart] = ()
    drawn: Sequence[Drawn] = ()
    curves: Sequence[Chart] = ()
    planted: Sequence[Score] = ()
    thresholds: Sequence[Threshold] = ()
    kept: Sequence[Picture] = ()
    undrawn: Sequence[Picture] = ()
    faces: Sequence[Picture] = ()
    faces_count: int = 0
    dropped: Sequence[Group] = ()
    duplicates: Sequence[Pair] = ()
    copies: Sequence[Pair] = ()
    leaks: Sequence[Pair] = ()
    neighbours: Sequence[Neighbours] = ()
    versions: Mapping[str, str] = field(default_factory=dict)

    def count(self, name: str) -> int:
        """How many images a step of the funnel let through."""
        return next(step.count for step in self.funnel if step.name == name)

    def lost(self, stage: str, beginning: str) -> int:
        """How many a stage dropped for reasons that begin so."""
        return sum(n for step in self.funnel if step.stage == stage for r, n in step.drops if r.startswith(beginning))

    def best(self, protocol: str) -> list[tuple[Mapping[str, Any], Mapping[str, Any] | None]]:
        """``(trained model, same model untrained)`` on each data set of a protocol."""
        rows = {(m["dataset"], m["model"]): m for m in self.metrics if m["protocol"] == protocol}
        return [(m, rows.get((dataset, "untrained"))) for (dataset, model), m in rows.items() if model == "trained"]


def html(report: Report) -> str:
    """The page."""
    return _environment().get_template("report.html").render(report=report)


def markdown(report: Report) -> str:
    """The summary: the numbers, without pictures and without a word from the web."""
    return _environment().get_template("summary.md").render(report=report)


def _environment() -> jinja2.Environment:
    return environment("dinov2_core.report", number=_number, percent=_percent, cell=_cell, short=_short)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,}"


def _percent(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def _cell(value: object) -> Markup:
    """Text for a Markdown table: one line, no bar that would end the cell."""
    return Markup(escape(" ".join(str(value).split())).replace("|", "&#124;"))  # noqa: S704


def _short(text: str, length: int = 60) -> str:
    """The beginning and the end of a long address."""
    return text if len(text) <= length else f"{text[: length - 20]}…{text[-19:]}"
