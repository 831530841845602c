"""A whole table held against its expectations in one pass, in memory that hardly grows with its rows.

Of keys no more is held than ``memory`` says and a 64th of two tables; the rest waits in temporary files, up to 16 bytes
a key. References are resolved through the manifest: a table is judged against just those partitions of another stage
that it was made from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from dinov2_core import manifest, tables
from dinov2_core.gates import fingerprints, keys, measures, reading
from dinov2_core.gates.expectation import Expect, Finding
from dinov2_core.gates.measure import Context, Known
from dinov2_core.gates.measures import SchemaOf
from dinov2_core.progress import Progress
from dinov2_core.storage import Store


@dataclass(frozen=True)
class TableSummary:
    """What one pass found: the parts in order, rows in all, a finding an expectation (values by part)."""

    parts: tuple[str, ...]
    rows: int
    findings: tuple[Finding, ...]


def summarise(
    store: Store,
    stage: str,
    table: str,
    partitions: Sequence[str],
    suite: Sequence[Expect],
    *,
    memory: int = fingerprints.MEMORY,
) -> TableSummary:
    """Measure ``suite`` on every row of ``table`` in the ``partitions`` of ``stage``; ``memory``: bytes for keys.

    Raises:
        DamagedDataError: a part is missing or not readable.
        ValueError: an expectation of a kind that no measure has.
    """
    parts = reading.parts(store, stage, table, partitions)
    shared = fingerprints.Memory(memory)
    context = Context(store, parts, tables.NAMED_BY[table], References(store, stage, shared).known, shared)
    schemas = [reading.schema(store, part.record) for part in parts]
    present = sorted(set.intersection(*(set(s.names) for s in schemas))) if schemas else []
    found = [measures.of(expect, context, present) for expect in suite]
    for measure in found:
        if isinstance(measure, SchemaOf):
            for number, have in enumerate(schemas):
                measure.compare(number, have, _wanted(table, schemas[0]))
    columns = sorted({c for measure in found for c in measure.columns} | set(context.named_by))
    rows = sum(part.record.rows or 0 for part in parts)
    with Progress(f"{stage}: checking {table}", rows) as progress:
        for number, block in reading.blocks(store, [part.record for part in parts], columns):
            for measure in found:
                measure.add(number, block)
            progress.advance(len(block))
    for partition in dict.fromkeys(part.partition for part in parts):
        for measure in found:
            measure.settle(partition)
    return TableSummary(tuple(p.name for p in parts), rows, tuple(measure.finding() for measure in found))


def _wanted(table: str, first: pa.Schema) -> pa.Schema:
    """The schema of a table; vectors are as wide as in its first part."""
    dim = None
    if "embedding" in first.names and pa.types.is_fixed_size_list(first.field("embedding").type):
        dim = first.field("embedding").type.list_size
    return tables.schema(table, dim=dim if dim is not None else 1)


class References:
    """The keys that a stage's tables refer to, read when first asked for; those of one partition are held at a time."""

    def __init__(self, store: Store, stage: str, memory: fingerprints.Memory) -> None:
        self.store, self.stage, self.memory = store, stage, memory
        self._partition = ""
        self._held: dict[tuple[object, ...], Known] = {}

    def known(self, expect: Expect, partition: str) -> Known | None:
        """The keys at ``expect``'s ``to`` (stage, table, columns; stage '' is the own one) and ``to_where``.

        None where the upstream stage has changed since: what was made from it is then stale, and not wrong.
        """
        stage, table, *columns = expect.settings["to"]
        where = dict(expect.settings.get("to_where") or {})
        names = self._read(stage, partition) if stage else [partition]
        if names is None:
            return None
        if partition != self._partition:
            while self._held:
                self._held.popitem()[1].prints.clear()
            self._partition = partition
        key = (stage, table, *columns, str(where))
        if key not in self._held:
            parts = reading.parts(self.store, stage or self.stage, table, names)
            self._held[key] = Known(parts, columns, where, keys.read(self.store, parts, columns, where, self.memory))
        return self._held[key]

    def _read(self, stage: str, partition: str) -> list[str] | None:
        made = manifest.read(self.store, self.stage, partition)
        read = reading.upstream(made, stage) if made else {}
        for name, wanted in read.items():
            current = manifest.read(self.store, stage, name)
            if current is None or current.hash != wanted:
                return None
        return list(read)
