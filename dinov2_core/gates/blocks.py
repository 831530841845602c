"""Some rows of a table as an expectation sees them: values, rows that are meant, fingerprints of keys.

Beside its own columns a block has ``norm`` (the length of ``embedding``) and the fields of a list of structs as
``LIST.FIELD``. Reading tables from a store does not belong here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Where = Mapping[str, Any]
"""Column → the value that it must have, a tuple of allowed ones, or ``('>', limit)``; lists compare by their length."""
SHOWN = 100
"""The most characters of a value that an example shows."""


def source(column: str) -> str:
    """The stored column that ``column`` is made from."""
    return "embedding" if column == "norm" else column.split(".", 1)[0]


def show(value: object) -> str:
    """A value on one short line; what could rule a terminal or turn the line around is written out."""
    text = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in str(value)[: 2 * SHOWN])
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


class Block:
    """A record batch; everything computed from it is remembered, since several expectations ask for the same."""

    def __init__(self, rows: pa.RecordBatch) -> None:
        self.rows = rows
        self._prints: dict[tuple[str, ...], tuple[np.ndarray, np.ndarray]] = {}
        self._values: dict[str, tuple[pa.Array, np.ndarray | None]] = {}

    def __len__(self) -> int:
        return int(self.rows.num_rows)

    def values(self, column: str) -> tuple[pa.Array, np.ndarray | None]:
        """``(values, row of each)``; the second is None where there is one value a row, in order."""
        if column not in self._values:
            self._values[column] = self._read(column)
        return self._values[column]

    def _read(self, column: str) -> tuple[pa.Array, np.ndarray | None]:
        stored = self.rows.column(source(column))
        if column == "norm":
            width = stored.type.list_size
            flat = pc.fill_null(stored.flatten(), float("nan")) if stored.null_count else stored.flatten()
            vectors = flat.to_numpy(zero_copy_only=False).reshape(-1, width).astype(np.float32)
            norms = np.full(len(stored), np.nan, np.float32)
            norms[pc.is_valid(stored).to_numpy(zero_copy_only=False)] = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
            return pa.array(norms), None
        if "." in column:
            parents = pc.list_parent_indices(stored).to_numpy()
            return pc.struct_field(pc.list_flatten(stored), column.split(".", 1)[1]), parents
        return stored, None

    def mask(self, where: Where) -> np.ndarray:
        """Rows that ``where`` means: bool [N]. A null is never meant."""
        meant = np.ones(len(self), bool)
        for column, wanted in where.items():
            values = self.rows.column(column)
            if pa.types.is_list(values.type):
                values = pc.list_value_length(values)
            if isinstance(wanted, tuple) and wanted[:1] == (">",):
                hits = pc.greater(values, wanted[1])
            else:
                allowed = wanted if isinstance(wanted, tuple) else (wanted,)
                hits = pc.is_in(values, value_set=pa.array(allowed, values.type), skip_nulls=True)
            meant &= pc.fill_null(hits, False).to_numpy(zero_copy_only=False)
        return meant

    def fingerprints(self, columns: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """``(fingerprint of each row's key, whether it has one)``: int64 [N], bool [N].

        Keys that differ have the same fingerprint once in 2⁶⁴ pairs (SipHash, keyed anew in every process). A key
        whose columns are all null is none.
        """
        columns = tuple(columns)
        if columns not in self._prints:
            texts = [pc.cast(self.rows.column(c), pa.string()) for c in columns]
            objects = [text.to_numpy(zero_copy_only=False) for text in texts]
            keys = objects[0] if len(columns) == 1 else zip(*objects, strict=True)
            prints = np.fromiter(map(hash, keys), np.int64, len(self))
            valid = np.zeros(len(self), bool)
            for text in texts:
                valid |= pc.is_valid(text).to_numpy(zero_copy_only=False)
            self._prints[columns] = prints, valid
        return self._prints[columns]

    def name(self, row: int, columns: Sequence[str]) -> str:
        """The values of ``columns`` in a row, as one line."""
        return show(" ".join(str(self.rows.column(c)[row].as_py()) for c in columns if c in self.rows.schema.names))
