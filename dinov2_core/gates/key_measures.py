"""Measures that need a batch's keys: what repeats, what refers to nothing, what was lost.

Keys are held as fingerprints (``keys``); in which table the other side lies is the context's business.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np

from dinov2_core.gates import keys
from dinov2_core.gates.blocks import Block, show
from dinov2_core.gates.expectation import Finding
from dinov2_core.gates.fingerprints import Fingerprints
from dinov2_core.gates.measure import EXAMPLES, Measure


class Keyed(Measure):
    """Base of what needs all keys of a batch. ``numbered``: with the numbers of their rows in the table."""

    numbered = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.prints: dict[str, Fingerprints] = {}
        self.rows = 0

    @property
    def key(self) -> list[str]:
        settings = self.expect.settings
        return list(settings.get("column_list") or [settings["column"]])

    @property
    def where(self) -> dict[str, Any]:
        return dict(self.expect.settings.get("where") or {})

    def add(self, part: int, block: Block) -> None:
        prints, rows = keys.of(block, self.key, self.where)
        self.of_batch(self.context.parts[part].partition).add(prints, self.rows + rows if self.numbered else None)
        self.rows += len(block)

    def of_batch(self, partition: str) -> Fingerprints:
        if partition not in self.prints:
            self.prints[partition] = Fingerprints(self.context.memory, numbered=self.numbered)
        return self.prints[partition]

    def settle(self, partition: str) -> None:
        self.judge(partition, self.of_batch(partition))
        self.prints.pop(partition).clear()

    @abstractmethod
    def judge(self, partition: str, prints: Fingerprints) -> None:
        """Set the values of a batch from all its keys."""


class Unique(Keyed):
    """Keys that a batch has more than once."""

    def judge(self, partition: str, prints: Fingerprints) -> None:
        suspects, count = np.zeros(0, np.int64), 0
        for some in prints.ranges():
            found, rows = keys.repeated(some[:, 0].copy())
            suspects, count = np.concatenate([suspects, found])[: keys.PROVED], count + rows
        if count:
            own = self.of_partition(partition)
            wrong, often = keys.proved(self.context.store, own, self.key, self.where, suspects)
            count -= wrong
            self.examples += [show(" ".join(map(str, key))) for key in often[:EXAMPLES]]
        self.values[self.first(partition)] = count

    def finding(self) -> Finding:
        return self.none_may_break()


class UniqueShare(Keyed):
    """The share of a column's values that are distinct, in each batch."""

    def judge(self, partition: str, prints: Fingerprints) -> None:
        rows = distinct = 0
        for some in prints.ranges():
            rows += len(some)
            distinct += len(keys.each_once(some[:, 0].copy()))
        if rows:
            self.values[self.first(partition)] = distinct / rows

    def finding(self) -> Finding:
        low, high = self.expect.settings.get("min_value"), self.expect.settings.get("max_value")
        observed = ", ".join(f"{v:.4f}" for v in self.values if v is not None)
        return Finding(self.expect, tuple(self.values), low, high, observed or "no values")


class Refers(Keyed):
    """Rows whose key is in no row of the table that it refers to."""

    numbered = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.starts: dict[int, int] = {}
        self.orphans = np.zeros(0, np.int64)

    def add(self, part: int, block: Block) -> None:
        self.starts.setdefault(part, self.rows)
        super().add(part, block)

    def judge(self, partition: str, prints: Fingerprints) -> None:
        known = self.context.known(self.expect, partition)
        if known is None:
            return
        parts = [number for number in self.starts if self.context.parts[number].partition == partition]
        starts = [self.starts[number] for number in parts]
        counts = np.zeros(len(parts), np.int64)
        for some in keys.outside(prints, known.prints):
            counts += np.bincount(np.searchsorted(starts, some[:, 1], "right") - 1, minlength=len(parts))
            self.orphans = keys.first(np.concatenate([self.orphans, some[:, 1]]), EXAMPLES)
        for number, count in zip(parts, counts.tolist(), strict=True):
            self.values[number] = count

    def finding(self) -> Finding:
        if all(value is None for value in self.values):
            return Finding(self.expect, tuple(self.values), observed="not judged: what it refers to has changed since")
        named = [*self.context.named_by, *self.key]
        for block, row in keys.rows_at(self.context.store, self.context.parts, named, self.orphans):
            self.examples.append(f"{block.name(row, self.context.named_by)}: {block.name(row, self.key)}")
        return self.none_may_break()


class Covers(Keyed):
    """Keys of another table that this one lacks."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.judged = False

    def judge(self, partition: str, prints: Fingerprints) -> None:
        known = self.context.known(self.expect, partition)
        if known is None:
            return
        self.judged = True
        count, missing = 0, np.zeros(0, np.int64)
        for some in keys.outside(known.prints, prints):
            count += len(keys.each_once(some[:, 0].copy()))
            missing = keys.first(np.concatenate([missing, some[:, 1]]), EXAMPLES)
        self.values[self.first(partition)] = count
        if len(self.examples) < EXAMPLES:
            found = keys.rows_at(self.context.store, known.parts, known.columns, missing)
            self.examples += [block.name(row, known.columns) for block, row in found]

    def finding(self) -> Finding:
        if not self.judged:
            return Finding(self.expect, tuple(self.values), observed="not judged: what it covers has changed since")
        return self.none_may_break()


class Parents(Measure):
    """Clusters of a tree whose parent is no cluster of the level above; the highest level's lie above the tree."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.rows: list[np.ndarray] = []

    @property
    def columns(self) -> list[str]:
        return ["level", "cluster", "parent"]

    def add(self, part: int, block: Block) -> None:
        self.rows.append(np.stack([block.values(c)[0].to_numpy(zero_copy_only=False) for c in self.columns], axis=1))

    def finding(self) -> Finding:
        rows = np.concatenate([np.zeros((0, 3), np.int64), *self.rows]).astype(np.int64)
        there = {(level, cluster) for level, cluster in rows[:, :2].tolist()}
        top = max((level for level, _ in there), default=0)
        lost = [r for r in rows.tolist() if r[0] < top and (r[0] + 1, r[2]) not in there]
        if self.values:
            self.values[0] = len(lost)
        self.examples = [f"level {level} cluster {cluster}: {parent}" for level, cluster, parent in lost[:EXAMPLES]]
        return self.none_may_break()
