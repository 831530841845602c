"""What is kept for one expectation while a table is read once: numbers by part, and a few rows that break it.

The kinds are in ``measures`` and ``key_measures``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from dinov2_core.gates.blocks import Block, source
from dinov2_core.gates.expectation import Expect, Finding
from dinov2_core.gates.fingerprints import Fingerprints, Memory
from dinov2_core.gates.reading import Part
from dinov2_core.storage import Store

EXAMPLES = 5


@dataclass
class Context:
    """What a measure needs beside the rows: the table's parts, the columns that name a row, other tables' keys."""

    store: Store
    parts: Sequence[Part]
    named_by: Sequence[str]
    known: Callable[[Expect, str], Known | None] = lambda expect, partition: None
    memory: Memory = field(default_factory=Memory)


@dataclass(frozen=True)
class Known:
    """Keys of another table: where they are, and their fingerprints, numbered."""

    parts: Sequence[Part]
    columns: Sequence[str]
    where: dict[str, Any]
    prints: Fingerprints


@dataclass
class Measure(ABC):
    """Base: numbers by part, examples; parts are numbered as in the context."""

    expect: Expect
    context: Context
    values: list[float | None] = field(init=False)
    examples: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.values = [None] * len(self.context.parts)

    @property
    def columns(self) -> list[str]:
        """Stored columns that must be read."""
        settings = self.expect.settings
        named = [settings.get("column"), settings.get("column_A"), settings.get("column_B")]
        named += [*(settings.get("column_list") or ()), *(settings.get("where") or ())]
        return [source(name) for name in named if name]

    def add(self, part: int, block: Block) -> None:  # noqa: B027 - a schema has no rows to take in
        """Take in one more block of a part."""

    def settle(self, partition: str) -> None:  # noqa: B027 - most need no keys
        """Compare the keys of a batch with others, once all blocks were added; called a batch at a time."""

    @abstractmethod
    def finding(self) -> Finding:
        """The result, once all batches were settled."""

    def first(self, partition: str) -> int:
        """The number of a partition's first part."""
        return next(i for i, part in enumerate(self.context.parts) if part.partition == partition)

    def partitions(self) -> list[str]:
        return list(dict.fromkeys(part.partition for part in self.context.parts))

    def of_partition(self, partition: str) -> list[Part]:
        return [part for part in self.context.parts if part.partition == partition]

    def none_may_break(self) -> Finding:
        count = int(sum(value or 0 for value in self.values))
        return Finding(self.expect, tuple(self.values), None, 0, count, tuple(self.examples[:EXAMPLES]))
