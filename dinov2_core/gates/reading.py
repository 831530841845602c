"""A table's parts read in blocks of bounded size, with which partition each belongs to.

What is measured on them is in the modules beside.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dinov2_core import manifest
from dinov2_core.errors import DamagedDataError
from dinov2_core.gates.blocks import Block
from dinov2_core.manifest import Manifest
from dinov2_core.storage import FileRecord, Store

ROWS = 1 << 16
"""The most rows of a block."""
THREADS = 2


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


def blocks(store: Store, records: Sequence[FileRecord], columns: Sequence[str]) -> Iterator[tuple[int, Block]]:
    """The rows of some parts in order, with those of ``columns`` that they have: ``(number of the part, rows)``.

    Row groups are read ahead by two threads, since decoding vectors takes most of the time; no more than three are
    held at once.

    Raises:
        DamagedDataError: a file is missing or no readable table.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        waiting: deque[tuple[int, Future[list[Block]]]] = deque()
        for number, record in enumerate(records):
            about = _metadata(store, record)
            for group in range(about.num_row_groups):
                waiting.append((number, pool.submit(_group, store, record, about, group, columns)))
                if len(waiting) > THREADS:
                    yield from _next(waiting)
        while waiting:
            yield from _next(waiting)


def _next(waiting: deque[tuple[int, Future[list[Block]]]]) -> Iterator[tuple[int, Block]]:
    number, future = waiting.popleft()
    for block in future.result():
        yield number, block


def _metadata(store: Store, record: FileRecord) -> pq.FileMetaData:
    try:
        with store.open(record.path) as f:
            return pq.read_metadata(f)
    except (pa.ArrowInvalid, OSError) as error:
        raise _damaged(store, record, error) from error


def _group(store: Store, record: FileRecord, about: Any, group: int, columns: Sequence[str]) -> list[Block]:
    try:
        with store.open(record.path) as f, pq.ParquetFile(f, metadata=about) as file:
            there = [name for name in file.schema_arrow.names if name in columns]
            batches = file.iter_batches(ROWS, row_groups=[group], columns=there, use_threads=False)
            return [Block(batch) for batch in batches]
    except (pa.ArrowInvalid, OSError) as error:
        raise _damaged(store, record, error) from error


def schema(store: Store, record: FileRecord) -> pa.Schema:
    """The schema of a part; raises as :func:`blocks`."""
    return _metadata(store, record).schema.to_arrow_schema()


def _damaged(store: Store, record: FileRecord, error: Exception) -> DamagedDataError:
    return DamagedDataError(
        f"not a readable table ({error})",
        where=f"{store.root}/{record.path}",
        todo="materialise the asset that wrote it again",
    )
