"""The tables of all batches, read in blocks, for stages over the whole pool.

What is kept of an image stands in arrays by its position in an ``ImageIndex``. What stages do with it does not belong
here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dinov2_core import tables
from dinov2_core.curation import vectors
from dinov2_core.curation.image_index import ImageIndex, to_bytes
from dinov2_core.curation.neighbours import Kind, NeighbourSearch
from dinov2_core.curation.scratch import WORKING, Scratch
from dinov2_core.curation.vectors import Rows, StoredRows
from dinov2_core.stage import StageRun

BLOCK = 1 << 16
"""Rows read and written at once."""
LOCATION = tuple(name for name, _ in tables.LOCATION)


def scratch(memory: int) -> Scratch:
    """Arrays over the pool for a step whose setting ``memory`` is that many bytes."""
    return Scratch(memory, working=WORKING)


def search(matrix: Rows, scratch: Scratch, *, device: str = "cpu", kind: Kind = "exact") -> NeighbourSearch:
    """A search of ``matrix`` that keeps it rounded where ``scratch`` has room for that."""
    made = NeighbourSearch(matrix, kind=kind, device=device)
    keep = made.rounded_bytes
    return replace(made, keep=keep if kind == "exact" and scratch.room(keep) else 0)


def blocks(
    run: StageRun, stage: str, table: str, columns: Sequence[str] | None = None, *, partition: str = ""
) -> Iterator[pa.RecordBatch]:
    """The rows of an upstream table, over all partitions in reach or one, no more than ``BLOCK`` at a time."""
    for manifest in run.manifests(stage):
        if partition and manifest.partition != partition:
            continue
        for record in manifest.table(table):
            with run.store.open(record.path) as file:
                yield from pq.ParquetFile(file).iter_batches(BLOCK, columns=list(columns) if columns else None)


def rows(run: StageRun, stage: str, table: str) -> int:
    """How many rows an upstream table has, as its manifests say."""
    return sum(record.rows or 0 for manifest in run.manifests(stage) for record in manifest.table(table))


def ids(block: pa.RecordBatch, column: str = "image_id") -> np.ndarray:
    """The ids in a column: S32 [N]."""
    return to_bytes(block.column(column))


def kept(run: StageRun, stage: str, table: str, columns: Sequence[str] = ()) -> Iterator[pa.RecordBatch]:
    """The rows of a table of verdicts whose image is kept."""
    for block in blocks(run, stage, table, ["image_id", "keep", *columns]):
        yield block.filter(block.column("keep"))


def kept_index(run: StageRun, stage: str, table: str, scratch: Scratch) -> ImageIndex:
    """The images that a table of verdicts keeps."""
    return ImageIndex.build((ids(block) for block in kept(run, stage, table)), rows(run, stage, table), scratch)


def embeddings(
    run: StageRun, stage: str, table: str, scratch: Scratch, index: ImageIndex | None = None
) -> tuple[ImageIndex, StoredRows, int]:
    """``(index, vectors by position, how many images of the index have none)``; without an index, that of the table."""
    if index is None:
        found = (ids(block) for block in blocks(run, stage, table, ["image_id"]))
        index = ImageIndex.build(found, rows(run, stage, table), scratch)
    present = scratch.full(len(index), bool, False)
    values = np.zeros((0, 0), np.float16)
    for block in blocks(run, stage, table):
        width = block.schema.field("embedding").type.list_size
        if not values.shape[1]:
            values = scratch.full((len(index), width), np.float16, 0)
        at = index.find(ids(block))
        values[at[at >= 0]] = vectors.stored(block)[at >= 0]
        present[at[at >= 0]] = True
    return index, StoredRows(values), int(len(index) - np.count_nonzero(present))


@dataclass(frozen=True)
class Locations(Mapping[str, dict[str, Any]]):
    """Where the bytes of the images of ``index`` lie: 20 bytes an image. A mapping from ids, as text, to rows."""

    index: ImageIndex
    shards: list[str]
    shard: np.ndarray
    offset: np.ndarray
    length: np.ndarray

    def columns(self, at: slice | np.ndarray) -> list[pa.Array]:
        """The columns ``shard, offset, length`` of the images at positions ``at``."""
        names = pa.DictionaryArray.from_arrays(pa.array(self.shard[at]), pa.array(self.shards, pa.string()))
        return [names.cast(pa.string()), pa.array(self.offset[at]), pa.array(self.length[at])]

    def at(self, positions: np.ndarray) -> list[dict[str, Any]]:
        """Id and location of the images at ``positions``."""
        columns = [self.index.text(positions), *self.columns(positions)]
        return pa.table(columns, names=["image_id", *LOCATION]).to_pylist()

    def __getitem__(self, name: str) -> dict[str, Any]:
        (at,) = self.index.find(to_bytes(pa.array([name])))
        if at < 0:
            raise KeyError(name)
        return self.at(np.array([at]))[0]

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self.index), BLOCK):
            yield from self.index.text(slice(start, start + BLOCK)).to_pylist()

    def __len__(self) -> int:
        return len(self.index)


def locations(run: StageRun, stage: str, table: str, index: ImageIndex, scratch: Scratch) -> Locations:
    """Where a table of verdicts says that the bytes of the images of ``index`` lie."""
    count = len(index)
    shard, offset, length = (scratch.full(count, t, -1) for t in (np.int32, np.int64, np.int64))
    codes: dict[str, int] = {}
    for block in kept(run, stage, table, LOCATION):
        at = index.find(ids(block))
        here = at >= 0
        names = block.column("shard").dictionary_encode()
        own = np.array([codes.setdefault(name, len(codes)) for name in names.dictionary.to_pylist()], np.int32)
        if here.any():
            shard[at[here]] = own[names.indices.to_numpy()[here]]
            offset[at[here]] = block.column("offset").to_numpy()[here]
            length[at[here]] = block.column("length").to_numpy()[here]
    return Locations(index, list(codes), shard, offset, length)
