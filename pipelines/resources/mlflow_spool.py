"""What a training has to tell the tracker, kept in a file until the tracker has it: one JSON line a record.

The training only appends here, so a tracker that is slow or gone costs it nothing, and what a killed process had not
sent is sent by the next one. Sending is in ``mlflow_delivery.py``. Knows no tracker.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

log = logging.getLogger(__name__)
Record = dict[str, Any]
"""``kind`` is begin, params, text, metrics, folder or end; ``at`` is milliseconds since 1970."""


@dataclass(frozen=True)
class Spool:
    """The file of one training. ``stage`` and ``fingerprint`` are what the tracker finds its run by."""

    folder: Path
    stage: str
    fingerprint: str

    @property
    def path(self) -> Path:
        return self.folder / f"{self.stage}-{self.fingerprint[:16]}.jsonl"

    @property
    def files(self) -> Path:
        """Folders that wait to be sent."""
        return self.path.with_suffix(".files")

    def writer(self) -> Writer:
        """Open the file for more records."""
        return Writer(self)


@dataclass
class Writer:
    """Appends records until it is closed. Never raises: what cannot be written (a full disk) is lost, and said once."""

    spool: Spool
    _file: IO[bytes] | None = field(default=None, init=False)
    _complained: bool = field(default=False, init=False)
    _closed: bool = field(default=False, init=False)
    _at: int = field(default=0, init=False)

    def __call__(self, kind: str, **content: Any) -> None:
        if self._closed:
            return
        # Histories are sorted by time: a clock that goes back must not change their order.
        self._at = max(self._at, int(time.time() * 1000))
        line = json.dumps({"kind": kind, "at": self._at, **content}, separators=(",", ":")).encode() + b"\n"
        try:
            if self._file is None:
                self._file = self._open()
            self._file.write(line)
        except OSError as error:
            if not self._complained:
                self._complained = True
                log.warning("what is tracked cannot be kept (%s: %s)", self.spool.path, error.strerror)

    def keep(self, folder: Path, to: str) -> None:
        """Keep a folder of files under the artifact path ``to``: as links where the file system has them."""
        kept = self.spool.files / folder.name
        temporary = kept.with_name(f".tmp-{folder.name}")
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.copytree(folder, temporary, copy_function=_link)
            os.replace(temporary, kept)
        except (OSError, shutil.Error) as error:
            # The training removes old checkpoints while we look.
            shutil.rmtree(temporary, ignore_errors=True)
            log.info("%s is not kept for the tracker (%s)", folder, error)
            return
        self("folder", name=folder.name, to=to)

    def close(self) -> None:
        self._closed = True
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> IO[bytes]:
        path = self.spool.path
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            file = open(path, "ab", buffering=0)  # noqa: SIM115
            # Shared with other writers; who removes the file wants it alone.
            fcntl.flock(file, fcntl.LOCK_SH)
            if path.exists() and os.fstat(file.fileno()).st_ino == path.stat().st_ino:
                break
            file.close()
        if file.tell() and not _ends_a_line(path):
            file.write(b"\n")
        return file


def read(path: Path, offset: int = 0) -> Iterator[tuple[Record, int]]:
    """``(record, offset behind it)`` of every whole line from ``offset`` on; torn lines are passed over."""
    with open(path, "rb") as file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                return  # still being written
            offset += len(line)
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, Mapping) and "kind" in record:
                yield dict(record), offset


def waiting(folder: Path) -> list[Spool]:
    """The spools of a folder, the oldest first; a training before those that are part of it."""
    found = []
    for path in folder.glob("*.jsonl"):
        first = next((r for r, _ in read(path) if r["kind"] == "begin"), None)
        if first is not None:
            found.append((first["at"], first["stage"], Spool(folder, first["stage"], first["fingerprint"])))
    return [spool for _, _, spool in sorted(found, key=lambda one: one[:2])]


def _ends_a_line(path: Path) -> bool:
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
