"""The composition table of a curated set, in the form of the DINOv2 paper's table 15.

Draws are counted per set and mode; an image drawn twice counts twice, as in the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """One row: ``retrieved`` before the cap (of an as-is set all of it), ``final`` after it."""

    task: str
    dataset: str
    queries: int
    mode: str
    retrieved: int
    final: int


def markdown(lines: Sequence[Line]) -> str:
    """The table as Markdown, with its total."""
    head = "| Task | Dataset | Queries | Mode | Retrieved | Final |\n|---|---|---:|---|---:|---:|"
    rows = [
        f"| {x.task} | {x.dataset} | {x.queries:,} | {x.mode} | "
        f"{'–' if x.mode == 'as is' else f'{x.retrieved:,}'} | {x.final:,} |"
        for x in lines
    ]
    return "\n".join([head, *rows, f"| | **Total** | | | | **{sum(x.final for x in lines):,}** |"])
