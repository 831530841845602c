"""Measures that need a batch's keys: what repeats, what refers to nothing, what was lost.

Keys are held as fingerprints (``keys``); in which table the other side lies is the context's business.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from dinov2_core.gates import keys
from dinov2_core.gates.blocks import Block, show
from dinov2_core.gates.expectation import Finding
from dinov2_core.gates.measure import EXAMPLES, Known, Measure


class Keyed(Measure):
    """Base of what needs all keys of a batch."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.prints: dict[str, list[np.ndarray]] = defaultdict(list)

    @property
    def key(self) -> list[str]:
        settings = self.expect.settings
        return list(settings.get("column_list") or [settings["column"]])

    @property
    def where(self) -> dict[str, Any]:
        return dict(self.expect.settings.get("where") or {})

    def add(self, part: int, block: Block) -> None:
        self.prints[self.context.parts[part].partition].append(keys.of(block, self.key, self.where)[0])

    def all_prints(self, partition: str) -> np.ndarray:
        """The batch's fingerprints; they are given away, so that the next batch finds their memory free."""
        return np.concatenate(self.prints.pop(partition, []) or [np.zeros(0, np.int64)])


class Unique(Keyed):
    """Keys that a batch has more than once."""

    def finding(self) -> Finding:
        for partition in self.partitions():
            suspects, count = keys.repeated(self.all_prints(partition))
            if count:
                own = self.of_partition(partition)
                wrong, found = keys.proved(self.context.store, own, self.key, self.where, suspects)
                count -= wrong
                self.examples += [show(" ".join(map(str, key))) for key in found[:EXAMPLES]]
            self.values[self.first(partition)] = count
        return self.none_may_break()


class UniqueShare(Keyed):
    """The share of a column's values that are distinct, in each batch."""

    def finding(self) -> Finding:
        for partition in self.partitions():
            prints = self.all_prints(partition)
            if len(prints):
                self.values[self.first(partition)] = len(keys.each_once(prints)) / len(prints)
        low, high = self.expect.settings.get("min_value"), self.expect.settings.get("max_value")
        observed = ", ".join(f"{v:.4f}" for v in self.values if v is not None)
        return Finding(self.expect, tuple(self.values), low, high, observed or "no values")


class Refers(Measure):
    """Rows whose key is in no row of the table that it refers to."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.targets: dict[str, Known | None] = {}

    def target(self, partition: str) -> Known | None:
        if partition not in self.targets:
            # Of one batch at a time: batches come in order.
            self.targets = {partition: self.context.known(self.expect, partition)}
        return self.targets[partition]

    def add(self, part: int, block: Block) -> None:
        known = self.target(self.context.parts[part].partition)
        if known is None:
            return
        settings = self.expect.settings
        columns = list(settings.get("column_list") or [settings["column"]])
        prints, rows = keys.of(block, columns, settings.get("where"))
        orphans = rows[~keys.inside(prints, known.prints)]
        self.values[part] = (self.values[part] or 0) + len(orphans)
        for row in orphans[: EXAMPLES - len(self.examples)]:
            self.examples.append(f"{block.name(int(row), self.context.named_by)}: {block.name(int(row), columns)}")

    def finding(self) -> Finding:
        if all(value is None for value in self.values):
            return Finding(self.expect, tuple(self.values), observed="not judged: what it refers to has changed since")
        return self.none_may_break()


class Covers(Keyed):
    """Keys of another table that this one lacks."""

    def finding(self) -> Finding:
        judged = False
        for partition in self.partitions():
            known = self.context.known(self.expect, partition)
            if known is None:
                continue
            judged = True
            missing = known.prints[~keys.inside(known.prints, keys.each_once(self.all_prints(partition)))]
            self.values[self.first(partition)] = len(missing)
            if len(missing) and len(self.examples) < EXAMPLES:
                found = keys.rows_of(self.context.store, known.parts, known.columns, known.where, missing)
                self.examples += [show(" ".join(map(str, key))) for key, _ in zip(found, range(EXAMPLES), strict=False)]
        if not judged:
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
