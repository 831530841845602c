"""Image ids as numbers: the position of each among all of them in sorted order.

Ids are sha256 sums, 64 hexadecimal digits in tables and 32 bytes here, which sort alike. What belongs to an image is
then an array by position. Which images there are is up to the stages.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from dinov2_core.curation.scratch import Scratch
from dinov2_core.errors import DamagedDataError

ID = np.dtype("S32")
_BLOCK = 1 << 20
_DIGITS = np.frombuffer(b"0123456789abcdef", np.uint8)
_VALUES = np.full(256, 255, np.uint8)
_VALUES[_DIGITS] = np.arange(16)


def to_bytes(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Ids of a text column as 32 bytes each: S32 [N].

    Raises:
        DamagedDataError: a value is not an image id.
    """
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    count = len(column)
    if not count:
        return np.zeros(0, ID)
    offsets = np.frombuffer(column.buffers()[1], np.int32)[column.offset : column.offset + count + 1]
    if column.null_count or (np.diff(offsets) != 64).any():
        raise DamagedDataError(
            "an image id that is no sha256 sum", where="image_id", todo="materialise its stage again"
        )
    digits = _VALUES[np.frombuffer(column.buffers()[2], np.uint8)[offsets[0] : offsets[-1]]]
    if int(digits.max()) > 15:
        raise DamagedDataError(
            "an image id that is no sha256 sum", where="image_id", todo="materialise its stage again"
        )
    return np.ascontiguousarray(digits[0::2] << 4 | digits[1::2]).view(ID)


def _not_an_id() -> DamagedDataError:
    return DamagedDataError("an id that is no sha256 sum", where="image_id", todo="materialise its stage again")


def to_text(ids: np.ndarray) -> pa.Array:
    """Ids, S32 [N] with N < 33 million, as a text column."""
    raw = np.ascontiguousarray(ids).view(np.uint8)
    digits = np.empty((len(raw), 2), np.uint8)
    digits[:, 0], digits[:, 1] = _DIGITS[raw >> 4], _DIGITS[raw & 15]
    offsets = np.arange(len(ids) + 1, dtype=np.int32) * 64
    return pa.StringArray.from_buffers(len(ids), pa.py_buffer(offsets), pa.py_buffer(digits))


class ImageIndex:
    """``ids``: S32 [N], sorted, each once. 40 bytes an image."""

    def __init__(self, ids: np.ndarray, scratch: Scratch) -> None:
        self.ids = ids
        # The first eight bytes compare as one number, many times as fast as the whole.
        self._keys = scratch.empty(len(ids), np.uint64)
        for start in range(0, len(ids), _BLOCK):
            self._keys[start : start + _BLOCK] = _key(np.asarray(ids[start : start + _BLOCK]))

    @staticmethod
    def build(blocks: Iterable[np.ndarray], most: int, scratch: Scratch) -> ImageIndex:
        """The index of all ids in ``blocks`` (S32), which are no more than ``most``, repeated ones included."""
        ids = scratch.empty(most, ID)
        count = 0
        for block in blocks:
            ids[count : count + len(block)] = block
            count += len(block)
        ids = ids[:count]
        ids.sort()
        kept = 0
        last = None
        for start in range(0, count, _BLOCK):
            block = np.unique(ids[start : start + _BLOCK])
            if last is not None and block[0] == last:
                block = block[1:]
            ids[kept : kept + len(block)] = block
            kept += len(block)
            last = ids[kept - 1]
        return ImageIndex(ids[:kept], scratch)

    def __len__(self) -> int:
        return len(self.ids)

    def find(self, ids: np.ndarray) -> np.ndarray:
        """The position of each of ``ids`` (S32 [P]), −1 where it is not there: int64 [P]."""
        if not len(self.ids):
            return np.full(len(ids), -1, np.int64)
        at = np.searchsorted(self._keys, _key(ids))
        # Ids that share their first eight bytes lie side by side.
        while True:
            at = np.minimum(at, len(self.ids) - 1)
            later = (self.ids[at] < ids) & (at < len(self.ids) - 1)
            if not later.any():
                break
            at = at + later
        return np.where(self.ids[at] == ids, at, -1)

    def text(self, positions: np.ndarray | slice) -> pa.Array:
        """The ids at ``positions`` as a text column."""
        return to_text(self.ids[positions])


def _key(ids: np.ndarray) -> np.ndarray:
    first = np.ascontiguousarray(np.ascontiguousarray(ids).view(np.uint8).reshape(-1, 32)[:, :8])
    return first.view(">u8")[:, 0].astype(np.uint64)
