"""Fingerprints of many keys, cut into ranges: in memory up to a setting, in a temporary file beyond it.

Two tables are compared a range at a time, so that what is held at once is a small part of either. What is compared
with what, and why, does not belong here.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np

MEMORY = 128 << 20
"""Bytes that the fingerprints of one check hold together, beside the range at hand and the last rows of each."""
RANGES = 64
"""Into how many ranges fingerprints are cut. 10⁹ rows are then compared 16 million at a time."""
RUN = 1 << 18
"""Rows that are gathered before they are sorted and put away."""
_EDGES = np.arange(1 - RANGES // 2, RANGES // 2, dtype=np.int64) * (2**64 // RANGES)


class Memory:
    """What is left of the bytes that several ``Fingerprints`` share."""

    def __init__(self, size: int = MEMORY) -> None:
        self.left = size

    def take(self, size: int) -> bool:
        """Set ``size`` bytes aside; False, and nothing set aside, if there are fewer."""
        if size > self.left:
            return False
        self.left -= size
        return True


class Fingerprints:
    """Fingerprints in the order of ``ranges``, each with its row's number where ``numbered``."""

    def __init__(self, memory: Memory, *, numbered: bool = False) -> None:
        self._memory, self._width = memory, 1 + numbered
        self._fresh: list[np.ndarray] = []
        self._count = 0
        self._held: list[tuple[np.ndarray, np.ndarray]] = []
        self._stored: list[tuple[int, np.ndarray]] = []
        self._file: Any = None

    def add(self, prints: np.ndarray, numbers: np.ndarray | None = None) -> None:
        """Take in the fingerprints int64 [N] of some rows, whose numbers are int64 [N]."""
        self._fresh.append(np.stack([prints] if numbers is None else [prints, numbers], axis=1))
        self._count += len(prints)
        if self._count >= RUN:
            self._put_away()

    def _put_away(self) -> None:
        """Sort what is fresh and keep it as a run, with the places where ranges begin in it."""
        if not self._count:
            return
        run = np.concatenate(self._fresh)
        self._fresh, self._count = [], 0
        run = run[np.argsort(run[:, 0], kind="stable")]
        bounds = np.concatenate([[0], np.searchsorted(run[:, 0], _EDGES), [len(run)]])
        if self._memory.take(run.nbytes):
            self._held.append((run, bounds))
            return
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="dinov2-keys-", buffering=0)  # noqa: SIM115 - lives as this does
        self._stored.append((self._file.seek(0, os.SEEK_END), bounds))
        written = memoryview(run.tobytes())
        while written:
            written = written[self._file.write(written) :]

    def ranges(self) -> Iterator[np.ndarray]:
        """One range after the other, ascending: int64 [M, 1 or 2], sorted by fingerprint, of equal ones by entry."""
        self._put_away()
        for number in range(RANGES):
            parts = [run[bounds[number] : bounds[number + 1]] for run, bounds in self._held]
            parts += [self._read(start, bounds[number : number + 2]) for start, bounds in self._stored]
            joined = np.concatenate([np.zeros((0, self._width), np.int64), *parts])
            yield joined[np.argsort(joined[:, 0], kind="stable")]

    def _read(self, start: int, bounds: np.ndarray) -> np.ndarray:
        low, high = (int(bound) * self._width * 8 for bound in bounds)
        data = os.pread(self._file.fileno(), high - low, start + low)
        assert len(data) == high - low, "the file of fingerprints was cut short"
        return np.frombuffer(data, np.int64).reshape(-1, self._width)

    @property
    def on_disk(self) -> bool:
        """Whether some of it had to go to a file."""
        return bool(self._stored)

    def clear(self) -> None:
        """Give back memory and file."""
        self._memory.left += sum(run.nbytes for run, _ in self._held)
        self._fresh, self._count, self._held, self._stored = [], 0, [], []
        if self._file is not None:
            self._file.close()
            self._file = None
