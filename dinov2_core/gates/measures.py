"""Measures of rows, schemas and columns, and the list of all kinds. All rows of a table are looked at.

What needs keys is in ``key_measures``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dinov2_core.gates import row_rules
from dinov2_core.gates.blocks import Block, show
from dinov2_core.gates.expectation import Expect, Finding
from dinov2_core.gates.key_measures import Covers, Parents, Refers, Unique, UniqueShare
from dinov2_core.gates.measure import EXAMPLES, Context, Measure

MEAN, LEAST, LARGEST = (f"ExpectColumn{word}ToBeBetween" for word in ("Mean", "Min", "Max"))


class Rows(Measure):
    """Rows that break a rule by themselves."""

    def add(self, part: int, block: Block) -> None:
        left = EXAMPLES - len(self.examples)
        rows, values = row_rules.broken(self.expect.kind, self.expect.settings, block, limit=left)
        self.values[part] = (self.values[part] or 0) + len(rows)
        for row, value in zip(rows[:left], values, strict=False):
            self.examples.append(f"{block.name(int(row), self.context.named_by)}: {show(value)}")

    def finding(self) -> Finding:
        return self.none_may_break()


class Lacking(Measure):
    """An expectation on a column that the table has not: every part breaks it."""

    def finding(self) -> Finding:
        values = tuple(1.0 for _ in self.context.parts)
        return Finding(self.expect, values, None, 0, f"no column {self.expect.about}")


class SchemaOf(Measure):
    """Parts whose columns are not those of the table's schema; a vector's width must be the same in all."""

    def compare(self, part: int, schema: pa.Schema, wanted: pa.Schema) -> None:
        """Hold one part's schema against the wanted one."""
        # Types and not their text: Parquet renames the field inside a list.
        have = {f.name: f.type for f in schema}
        should = {f.name: f.type for f in wanted}
        odd = [f"no {n}" for n in should if n not in have] + [f"unknown {n}" for n in have if n not in should]
        odd += [f"{n} is {have[n]} and not {should[n]}" for n in should if n in have and have[n] != should[n]]
        if not odd and list(have) != list(should):
            odd = [f"order {', '.join(have)}"]
        self.values[part] = len(odd)
        if odd:
            self.examples.append(f"{self.context.parts[part].name}: {show('; '.join(odd))}")

    def finding(self) -> Finding:
        return self.none_may_break()


class RowCount(Measure):
    """Rows of each batch."""

    def add(self, part: int, block: Block) -> None:
        first = self.first(self.context.parts[part].partition)
        self.values[first] = (self.values[first] or 0) + len(block)

    def finding(self) -> Finding:
        for partition in self.partitions():
            self.values[self.first(partition)] = self.values[self.first(partition)] or 0
        low, high = self.expect.settings.get("min_value"), self.expect.settings.get("max_value")
        return Finding(self.expect, tuple(self.values), low, high, int(sum(v or 0 for v in self.values)))


class Aggregate(Measure):
    """Mean, largest or smallest value of a column in each batch."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.seen: dict[str, list[tuple[float, float, float, int]]] = defaultdict(list)

    def add(self, part: int, block: Block) -> None:
        values, _ = block.values(self.expect.settings["column"])
        values = pc.cast(pc.drop_null(values), pa.float64())
        if len(values):
            low, high = pc.min_max(values).values()
            row = (pc.sum(values).as_py(), low.as_py(), high.as_py(), len(values))
            self.seen[self.context.parts[part].partition].append(row)

    def finding(self) -> Finding:
        for partition, rows in self.seen.items():
            sums, lows, highs, counts = np.array(rows, np.float64).T
            value = {MEAN: sums.sum() / counts.sum(), LEAST: lows.min(), LARGEST: highs.max()}[self.expect.kind]
            self.values[self.first(partition)] = float(value)
        low, high = self.expect.settings.get("min_value"), self.expect.settings.get("max_value")
        seen = [v for v in self.values if v is not None]
        observed = ", ".join(f"{v:.6g}" for v in seen)
        return Finding(self.expect, tuple(self.values), low, high, observed or "no values")


_KINDS: dict[str, type[Measure]] = {
    **dict.fromkeys(row_rules.RULES, Rows),
    "ExpectTableSchemaToMatch": SchemaOf,
    "ExpectTableRowCountToBeBetween": RowCount,
    MEAN: Aggregate,
    LEAST: Aggregate,
    LARGEST: Aggregate,
    "ExpectColumnValuesToBeUnique": Unique,
    "ExpectCompoundColumnsToBeUnique": Unique,
    "ExpectColumnProportionOfUniqueValuesToBeBetween": UniqueShare,
    "ExpectColumnValuesToReferTo": Refers,
    "ExpectColumnValuesToCover": Covers,
    "ExpectParentsToExist": Parents,
}


def of(expect: Expect, context: Context, present: Sequence[str]) -> Measure:
    """The measure of ``expect`` for a table that has the columns ``present``.

    Raises:
        ValueError: no measure has this kind.
    """
    if expect.kind not in _KINDS:
        raise ValueError(f"no measure for {expect.kind}: {', '.join(_KINDS)}")
    made = _KINDS[expect.kind](expect, context)
    return made if set(made.columns) <= set(present) else Lacking(expect, context)
