"""Unit costs with where each comes from: read from ``unit_costs.yaml``, and from a file of your own over it.

What they are multiplied with is in ``stages`` and ``search``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import yaml

from dinov2_core import config
from dinov2_core.errors import ConfigError, nearest

FILE = Path(__file__).with_name("unit_costs.yaml")


@dataclass(frozen=True)
class UnitCost:
    """One number: ``kind`` says whether it was measured (then ``commit`` says on what code) or is assumed."""

    value: float
    unit: str
    kind: Literal["measured", "assumed"]
    source: str
    commit: str = ""

    def __post_init__(self) -> None:
        if not self.value > 0:
            raise ValueError(f"a unit cost is over zero, not {self.value:g}")
        if not self.source or (self.kind == "measured") != bool(self.commit):
            raise ValueError("every unit cost has a source, a measured one and no other a commit")


@dataclass
class UnitCosts:
    """Unit costs by name; remembers which were asked for since :meth:`reset`."""

    known: dict[str, UnitCost]
    _used: list[str] = field(default_factory=list)

    def __getitem__(self, name: str) -> float:
        if name not in self._used:
            self._used.append(name)
        return self.known[name].value

    def reset(self) -> tuple[str, ...]:
        """The names asked for since the last call, in order."""
        used, self._used = tuple(self._used), []
        return used

    def of(self, names: Iterator[str] | tuple[str, ...]) -> list[tuple[str, UnitCost]]:
        return [(name, self.known[name]) for name in dict.fromkeys(names)]


def read(path: str = "") -> UnitCosts:
    """The project's unit costs, those of the file ``path`` over them.

    Raises:
        ConfigError: no such file, a name that the plan does not know, or a cost without value, unit, kind or source.
    """
    known = {name: config.build(UnitCost, body, where=name) for name, body in _mapping(FILE).items()}
    for name, body in (_mapping(Path(path)) if path else {}).items():
        if name not in known:
            raise ConfigError(f"no unit cost '{name}'{nearest(name, known)}", where=path)
        one = config.build(UnitCost, body, where=f"{path}: {name}")
        if one.unit != known[name].unit:
            raise ConfigError(f"'{name}' is in {known[name].unit}, not {one.unit}", where=path)
        known[name] = one
    return UnitCosts(known)


def _mapping(path: Path) -> dict[str, dict[str, object]]:
    try:
        body = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"not readable: {error}", where=str(path)) from error
    if not isinstance(body, dict):
        raise ConfigError("expected a mapping of unit costs", where=str(path))
    return body
