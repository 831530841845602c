"""Copies of a training's checkpoints below the data root, for stages whose data root is no local folder.

A copy is whole once its note, which is written last, is there and every file has the size that the note says. When
copies are made and which stay does not belong here: ``train/checkpoint_copies.py`` and ``train/checkpoint.py``.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dinov2_core.storage import TEMPORARY, Store
from dinov2_core.train import checkpoint


@dataclass(frozen=True)
class StoredCheckpoints:
    """The copies below ``prefix`` of ``store``, a folder each."""

    store: Store
    prefix: str

    def names(self) -> list[str]:
        return [name for name, sizes in sorted(self._found().items()) if self._whole(name, sizes)]

    def put(self, path: Path) -> None:
        # The files of an older copy of this step may have the same names and sizes: without its note it counts no more.
        self.store.delete(self._path(path.name, checkpoint.NOTE))
        files = sorted(p for p in path.iterdir() if p.name != checkpoint.NOTE)
        for file in [*files, path / checkpoint.NOTE]:
            with file.open("rb") as source, self.store.create(self._path(path.name, file.name)) as target:
                shutil.copyfileobj(source, target, checkpoint.COPY_BYTES)

    def get(self, name: str, to: Path) -> None:
        for file in self._found().get(name, {}):
            with self.store.open(self._path(name, file)) as source, (to / file).open("wb") as target:
                shutil.copyfileobj(source, target, checkpoint.COPY_BYTES)

    def drop_all_but(self, names: Iterable[str]) -> None:
        kept = set(names)
        for name, sizes in self._found().items():
            if name in kept:
                continue
            for file in sorted(sizes, key=lambda file: file != checkpoint.NOTE):
                self.store.delete(self._path(name, file))

    def _found(self) -> dict[str, dict[str, int]]:
        """Name → file → bytes, of everything that is there."""
        found: dict[str, dict[str, int]] = {}
        for entry in self.store.listing(self.prefix):
            name, _, file = entry.path.removeprefix(f"{self.prefix}/").partition("/")
            if file and "/" not in file and TEMPORARY not in file and checkpoint.is_name(name):
                found.setdefault(name, {})[file] = entry.bytes
        return found

    def _whole(self, name: str, sizes: dict[str, int]) -> bool:
        if checkpoint.NOTE not in sizes:
            return False
        try:
            wanted = json.loads(self.store.read_bytes(self._path(name, checkpoint.NOTE)))["files"]
        except (ValueError, KeyError, TypeError):
            return False
        return all(sizes.get(file) == size for file, size in wanted.items())

    def _path(self, name: str, file: str) -> str:
        return f"{self.prefix}/{name}/{file}"
