"""Features on disk, computed once: keyed by weights, preprocessing, images and kind, mapped and never loaded whole.

Work is done in chunks with a marker after each, so that a killed extraction goes on, and several processes share one.
Which features, and of what, is the caller's.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinov2_core import config
from dinov2_core.errors import UserError
from dinov2_core.progress import Progress

CHUNK = 512
"""Rows a marker. Batches never cross chunks, so features are the same bits however chunks are spread."""

Arrays = Mapping[str, NDArray[np.float32]]
Compute = Callable[[int, int], Arrays]
"""``compute(start, stop)`` gives the rows ``start`` to ``stop`` of every array."""


@dataclass(frozen=True)
class FeatureCache:
    """A folder of cached features; any number of processes may use it."""

    root: Path

    def folder(self, **key: Any) -> Path:
        """Where the features of ``key`` (plain values) lie or will lie."""
        return self.root / config.digest(key)[:32]

    def read(self, folder: Path) -> dict[str, NDArray[np.float32]] | None:
        """The arrays, memory-mapped, or None where they are not complete."""
        if not folder.is_dir():
            return None
        return {path.stem: np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"))}

    def fill(
        self,
        folder: Path,
        shapes: Mapping[str, tuple[int, ...]],
        compute: Compute,
        *,
        label: str = "features",
        share: tuple[int, int] = (0, 1),
    ) -> None:
        """Compute the missing chunks of this process's share (``(rank, of how many)``).

        Args:
            shapes: name → ``(N, …)``, float32; the same N for all.

        Raises:
            UserError: a feature is not finite, named by its row.
        """
        work = begin(folder, shapes)
        rows = next(iter(shapes.values()))[0]
        starts = range(0, rows, CHUNK)[share[0] :: share[1]]
        with Progress(label, len(starts) * CHUNK) as progress:
            for start in starts:
                marker = work / f"{start}.done"
                if not marker.exists():
                    stop = min(start + CHUNK, rows)
                    for name, values in compute(start, stop).items():
                        check_finite(values, where=label, first=start)
                        target = np.lib.format.open_memmap(work / f"{name}.npy", mode="r+")
                        target[start:stop] = values
                        target.flush()
                    marker.touch()
                progress.advance(CHUNK)

    def finish(self, folder: Path, about: Mapping[str, Any]) -> dict[str, NDArray[np.float32]]:
        """Give the finished folder its name, in one atomic step, and map its arrays."""
        work = working(folder)
        for marker in work.glob("*.done"):
            marker.unlink()
        (work / "about.json").write_text(json.dumps(about, indent=1, sort_keys=True))
        try:
            work.rename(folder)
        except OSError:
            # Another program finished the same features; they are equal.
            shutil.rmtree(work, ignore_errors=True)
        found = self.read(folder)
        assert found is not None, "just written"
        return found


def working(folder: Path) -> Path:
    """Where features lie while they are incomplete."""
    return folder.with_name(folder.name + ".part")


def begin(folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> Path:
    """The working folder, with its arrays laid out on the disk; harmless where it has been made already."""
    work = working(folder)
    work.mkdir(parents=True, exist_ok=True)
    for name, shape in shapes.items():
        path = work / f"{name}.npy"
        if not path.exists():
            temporary = work / f"{name}.{os.getpid()}.tmp"
            np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=shape).flush()
            temporary.rename(path)
    return work


def check_finite(values: NDArray[np.float32], *, where: str, first: int = 0, names: Sequence[str] = ()) -> None:
    """UserError that names the first row with a NaN or an infinity."""
    bad = ~np.isfinite(values.reshape(len(values), -1)).all(axis=1)
    if bad.any():
        row = first + int(np.argmax(bad))
        raise UserError(
            f"features of {int(bad.sum())} images are not finite, the first is {names[row] if names else f'row {row}'}",
            where=where,
            todo="the weights are broken or overflow: load them in float32 and look at one image",
        )
