"""An expectation as plain data: what must hold, of what, and whether its failure blocks.

How one is measured is in the modules beside; lists of them belong to whoever runs the gates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from dinov2_core.gates.blocks import show

Severity = Literal["error", "warn"]


@dataclass(frozen=True)
class Expect:
    """``kind`` is a class of ``great_expectations.expectations`` where that has one, else one of our own.

    Beside the settings of the kind, ``where`` in ``settings`` restricts it to some rows: see ``blocks.Block.mask``.
    """

    kind: str
    settings: Mapping[str, Any]
    severity: Severity = "error"

    @property
    def about(self) -> str:
        """The columns it speaks of, as text; empty where it speaks of the whole table."""
        found = self.settings.get("column") or self.settings.get("column_list") or ""
        if not found and "column_A" in self.settings:
            found = (self.settings["column_A"], self.settings["column_B"])
        return found if isinstance(found, str) else ", ".join(found)


def error(kind: str, **settings: Any) -> Expect:
    """An expectation whose failure blocks everything downstream."""
    return Expect(kind, settings, "error")


def warn(kind: str, **settings: Any) -> Expect:
    """An expectation whose failure is shown and lets the run go on."""
    return Expect(kind, settings, "warn")


@dataclass(frozen=True)
class Finding:
    """What was measured for one expectation: a value a part of the table, to lie in ``low … high``.

    ``values``: None where a part has nothing to judge. Counts of broken rows stand at their part; what only a whole
    batch shows (a mean, a number of repeats) stands at the batch's first part. ``observed``: the whole, as a number or
    a remark. ``examples``: rows that break it, each as ``ROW: VALUE``.
    """

    expect: Expect
    values: tuple[float | None, ...]
    low: float | None = None
    high: float | None = None
    observed: Any = None
    examples: tuple[str, ...] = field(default=())

    def outside(self) -> list[int]:
        """The numbers of the parts whose value does not lie within the bounds."""
        return [
            number
            for number, value in enumerate(self.values)
            if value is not None
            and not ((self.low is None or value >= self.low) and (self.high is None or value <= self.high))
        ]


@dataclass(frozen=True)
class Outcome:
    """How one expectation ended: ``observed`` and ``examples`` say what was seen, ``parts`` where it fails."""

    expect: Expect
    success: bool
    observed: Any
    examples: tuple[str, ...]
    parts: tuple[str, ...] = ()

    def to_plain(self) -> dict[str, Any]:
        """As values that JSON has."""
        return {
            "expectation": self.expect.kind,
            "column": self.expect.about,
            "severity": self.expect.severity,
            "passed": self.success,
            "settings": {name: value for name, value in self.expect.settings.items() if not name.startswith("column")},
            "observed": show(self.observed),
            "examples": list(self.examples),
            "parts": list(self.parts),
        }
