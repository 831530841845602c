"""A table's parts read in blocks of bounded size, with which partition each belongs to.

What is measured on them is in the modules beside.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from dinov2_core import manifest
from dinov2_core.errors import DamagedDataError
from dinov2_core.gates.blocks import Block
from dinov2_core.manifest import Manifest
from dinov2_core.storage import FileRecord, Store

ROWS = 1 << 16
"""The most rows of a block."""


@dataclass(frozen=True)
class Part:
    """One part file of a table."""

    partition: str
    record: FileRecord

    @property
    def name(self) -> str:
        """What a person calls it: the file's name behind its stage and partition."""
        return self.record.path


def parts(store: Store, stage: str, table: str, partitions: Sequence[str]) -> list[Part]:
    """The parts of ``table`` that the manifests of ``partitions`` list, in their order."""
    found = []
    for partition in partitions:
        made = manifest.read(store, stage, partition)
        found += [Part(partition, record) for record in (made.table(table) if made else [])]
    return found


def upstream(made: Manifest, stage: str) -> dict[str, str]:
    """Partition → manifest hash of what ``made`` read of ``stage``."""
    keys = {key: key.split("/", 1) for key in made.upstream}
    return {partition: made.upstream[key] for key, (of, partition) in keys.items() if of == stage}


def blocks(store: Store, record: FileRecord, columns: Sequence[str]) -> Iterator[Block]:
    """The rows of a part with those of ``columns`` that it has.

    Raises:
        DamagedDataError: the file is missing or no readable table.
    """
    try:
        with store.open(record.path) as f, pq.ParquetFile(f) as file:
            there = [name for name in file.schema_arrow.names if name in columns]
            for batch in file.iter_batches(ROWS, columns=there):
                yield Block(batch)
    except (pa.ArrowInvalid, OSError) as error:
        raise _damaged(store, record, error) from error


def schema(store: Store, record: FileRecord) -> pa.Schema:
    """The schema of a part; raises as :func:`blocks`."""
    try:
        with store.open(record.path) as f:
            return pq.read_schema(f)
    except (pa.ArrowInvalid, OSError) as error:
        raise _damaged(store, record, error) from error


def _damaged(store: Store, record: FileRecord, error: Exception) -> DamagedDataError:
    return DamagedDataError(
        f"not a readable table ({error})",
        where=f"{store.root}/{record.path}",
        todo="materialise the asset that wrote it again",
    )
