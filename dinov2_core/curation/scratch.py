"""Arrays of one value a row of the pool: in memory up to a setting, in temporary files beyond it.

What lies in files is mapped, so the operating system keeps of it what fits and no step needs to know the difference.
The setting bounds what a step holds beyond its libraries: arrays from here, what :meth:`Scratch.room` sets aside, and
``WORKING`` for the blocks that pass through.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

MEMORY = 2 << 30
"""Bytes, the default of the setting ``memory``."""
WORKING = 320 << 20
"""Bytes that the blocks of a step over the whole pool need, however large the pool is."""


class Scratch:
    """Gives arrays until ``memory`` bytes are out, files in a temporary folder afterwards; all end with the block."""

    def __init__(self, memory: int = MEMORY, *, working: int = 0) -> None:
        self._left = max(memory - working, 0)
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._files = 0

    def __enter__(self) -> Scratch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._folder is not None:
            self._folder.cleanup()

    def lend(self) -> Scratch:
        """What is left, for a part of a step: its arrays end with its own block, and until then nothing else is asked
        of the lender."""
        return Scratch(self._left)

    @property
    def on_disk(self) -> int:
        """How many arrays had to go to files."""
        return self._files

    def room(self, size: int) -> bool:
        """Set ``size`` bytes aside for what cannot lie in files; False, and nothing set aside, if there are fewer."""
        if size > self._left:
            return False
        self._left -= size
        return True

    def full(self, shape: int | tuple[int, ...], dtype: Any, value: Any) -> np.ndarray:
        """An array filled with ``value``."""
        made = self.empty(shape, dtype)
        made[...] = value
        return made

    def empty(self, shape: int | tuple[int, ...], dtype: Any) -> np.ndarray:
        """An array whose contents are to be written."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if self.room(size):
            return np.empty(shape, dtype)
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="dinov2-scratch-")
        self._files += 1
        return np.memmap(Path(self._folder.name) / str(self._files), mode="w+", dtype=dtype, shape=shape)
