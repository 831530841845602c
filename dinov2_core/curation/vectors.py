"""Embeddings between tables (float16 lists beside ids) and matrices (float32), in one place.

How they are computed or compared does not belong here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa

from dinov2_core import tables


class Rows(Protocol):
    """What searches read: a float32 array [N, D], or anything that gives its rows a block at a time."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: slice | np.ndarray, /) -> np.ndarray: ...


@dataclass(frozen=True)
class StoredRows:
    """Rows as tables hold them: float16 [N, D], in memory or in a file. What is read is float32 of unit length."""

    values: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: slice | np.ndarray, /) -> np.ndarray:
        return unit(np.asarray(self.values[index], dtype=np.float32))


@dataclass(frozen=True)
class PickedRows:
    """The rows of ``source`` at ``indices``, int [N], read when they are asked for."""

    source: Rows
    indices: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.indices), *self.source.shape[1:])

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: slice | np.ndarray, /) -> np.ndarray:
        return take(self.source, self.indices[index])


@dataclass(frozen=True)
class MappedRows:
    """The rows of ``source`` after ``function`` (float32 [M, D] → float32 [M, D]), a block at a time."""

    source: Rows
    function: Callable[[np.ndarray], np.ndarray]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: slice | np.ndarray, /) -> np.ndarray:
        return self.function(np.asarray(self.source[index], dtype=np.float32))


def rows_of(matrix: Rows, start: int, stop: int) -> np.ndarray:
    """Rows ``start`` to ``stop``: float32 [stop − start, D]."""
    return np.asarray(matrix[start:stop], dtype=np.float32)


def take(matrix: Rows, indices: np.ndarray) -> np.ndarray:
    """The rows at ``indices``, int [P]: float32 [P, D]."""
    if isinstance(matrix, np.ndarray):
        return matrix.take(indices, axis=0)
    return np.asarray(matrix[indices], dtype=np.float32)


def to_table(ids: Sequence[str], matrix: np.ndarray) -> pa.Table:
    """Ids and float [N, D] as a table ``image_id, embedding`` (float16 lists of D)."""
    width = matrix.shape[1]
    flat = pa.array(np.ascontiguousarray(matrix, dtype=np.float16).reshape(-1), pa.float16())
    column = pa.FixedSizeListArray.from_arrays(flat, width)
    return pa.table([pa.array(list(ids), pa.string()), column], schema=tables.schema("embeddings", dim=width))


def from_table(table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """``(ids, matrix)``: object [N] and float32 [N, D], rows of unit length again after their rounding to float16."""
    ids = np.array(table.column("image_id").to_pylist(), dtype=object)
    return ids, unit(stored(table))


def stored(table: pa.Table | pa.RecordBatch) -> np.ndarray:
    """The column ``embedding`` as it is stored: float16 [N, D]."""
    width = table.schema.field("embedding").type.list_size
    column = table.column("embedding")
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    flat = column.flatten() if len(table) else pa.array([], pa.float16())
    return np.asarray(flat.to_numpy(zero_copy_only=False)).reshape(-1, width)


def unit(matrix: np.ndarray) -> np.ndarray:
    """float32 [N, D] with rows of unit length; rows of zeros stay."""
    norms = np.linalg.norm(matrix.astype(np.float64), axis=1, keepdims=True)
    scaled: np.ndarray = (matrix / np.where(norms > 0, norms, 1.0)).astype(np.float32)
    return scaled


def sorted_unique(ids: np.ndarray, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows in order of id, each id once: batches may hold the same image."""
    names, first = np.unique(ids.astype(str), return_index=True)
    return names, matrix[first]
