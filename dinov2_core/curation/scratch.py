"""Arrays of one value a row of the pool: in memory up to a setting, in temporary files beyond it.

What lies in files is mapped, so the operating system keeps of it what fits and no step needs to know the difference.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

MEMORY = 2 << 30
"""Bytes, the default of the setting ``memory``."""


class Scratch:
    """Gives arrays until ``memory`` bytes are out, files in a temporary folder afterwards; all end with the block."""

    def __init__(self, memory: int = MEMORY) -> None:
        self._left = memory
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._files = 0

    def __enter__(self) -> Scratch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._folder is not None:
            self._folder.cleanup()

    @property
    def on_disk(self) -> int:
        """How many arrays had to go to files."""
        return self._files

    def full(self, shape: int | tuple[int, ...], dtype: Any, value: Any) -> np.ndarray:
        """An array filled with ``value``."""
        made = self.empty(shape, dtype)
        made[...] = value
        return made

    def empty(self, shape: int | tuple[int, ...], dtype: Any) -> np.ndarray:
        """An array whose contents are to be written."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if size <= self._left:
            self._left -= size
            return np.empty(shape, dtype)
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="dinov2-scratch-")
        self._files += 1
        return np.memmap(Path(self._folder.name) / str(self._files), mode="w+", dtype=dtype, shape=shape)
