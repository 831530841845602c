"""A matrix on storage in parts, so that any machine reads the rows it needs: what searches over a cluster share.

Parts are plain ``.npy`` files of float16 rows by position. What is computed from them is in ``sharded_*``.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dinov2_core.curation.vectors import StoredRows, unit
from dinov2_core.storage import Store

PART = 1 << 16
"""Rows a part: 64 MB at 512 dimensions."""


@dataclass(frozen=True)
class MatrixFiles:
    """Float16 rows [N, D] below ``folder`` of the store at ``root``; read as float32 of unit length (``vectors.Rows``).

    Plain values only, so that it travels in a task: see :meth:`task` and :meth:`of`.
    """

    root: str
    folder: str
    rows: int
    dim: int
    part: int = PART

    @classmethod
    def write(
        cls,
        store: Store,
        folder: str,
        matrix: StoredRows | np.ndarray,
        at: np.ndarray | None = None,
        *,
        part: int = PART,
    ) -> MatrixFiles:
        """Store the float16 rows of ``matrix``, or those at the positions ``at``, int [N].

        Parts that are there already, from a run that was killed, are kept.
        """
        # As they are stored: scaled to unit length and rounded again they would be others.
        values = matrix.values if isinstance(matrix, StoredRows) else matrix
        count = len(values) if at is None else len(at)
        made = cls(store.root, folder, count, int(values.shape[1]), part)
        for number, start in enumerate(range(0, count, part)):
            path = made._path(number)
            if not store.exists(path):
                some = slice(start, min(start + part, count))
                block = np.asarray(values[some if at is None else at[some]], dtype=np.float16)
                buffer = io.BytesIO()
                np.save(buffer, block, allow_pickle=False)
                store.write_bytes(path, buffer.getvalue())
        return made

    @classmethod
    def of(cls, task: Mapping[str, Any]) -> MatrixFiles:
        return cls(**task)

    def task(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.rows, self.dim)

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, index: slice | np.ndarray, /) -> np.ndarray:
        if isinstance(index, slice):
            start, stop, step = index.indices(self.rows)
            if step != 1:
                raise ValueError("rows are read in steps of one")
            return self._range(start, stop)
        out = np.empty((len(index), self.dim), np.float32)
        parts = index // self.part
        for number in np.unique(parts):
            chosen = parts == number
            out[chosen] = _part(self, int(number))[index[chosen] - number * self.part]
        return out

    def _range(self, start: int, stop: int) -> np.ndarray:
        if stop <= start:
            return np.zeros((0, self.dim), np.float32)
        found = []
        for number in range(start // self.part, (stop - 1) // self.part + 1):
            first = number * self.part
            found.append(_part(self, number)[max(start - first, 0) : stop - first])
        return found[0] if len(found) == 1 else np.concatenate(found)

    def _path(self, number: int) -> str:
        return f"{self.folder}/rows-{number:06d}.npy"


@functools.lru_cache(maxsize=4)
def _part(matrix: MatrixFiles, number: int) -> np.ndarray:
    """Rows of one part: float32 of unit length. A process keeps the parts it read last."""
    data = Store(matrix.root).read_bytes(matrix._path(number))
    return unit(np.load(io.BytesIO(data), allow_pickle=False).astype(np.float32))
