"""Copies of checkpoints that outlive this machine's disk: sent beside the training, fetched where they are newer.

What a checkpoint is and which stay is ``checkpoint``'s; where copies lie is the caller's: here is the interface only.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

log = logging.getLogger(__name__)


class Copies(Protocol):
    """Checkpoints in another place, by the names of their folders. Each method may raise what that place raises."""

    def names(self) -> list[str]:
        """The whole ones, oldest first; what is half there is none."""

    def put(self, path: Path) -> None:
        """Copy a checkpoint's folder; it counts as whole once all of it is there."""

    def get(self, name: str, to: Path) -> None:
        """Copy the files of a whole one into the folder ``to``, which is there and empty."""

    def drop_all_but(self, names: Iterable[str]) -> None:
        """Remove every other one, half ones too."""


class Sender:
    """Sends checkpoints in a thread: a slow or dead place costs the training nothing but the copies.

    Of checkpoints that are made while one is on its way the newest is sent next, the others never.
    """

    def __init__(self, copies: Copies, kept: Callable[[list[str]], Iterable[str]]) -> None:
        """``kept``: of names, oldest first, those that stay."""
        self.copies, self.kept = copies, kept
        self.busy: Path | None = None
        """the checkpoint on its way: it must stay on the disk"""
        self._waiting: Path | None = None
        self._closed = False
        self._change = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="checkpoint copies", daemon=True)
        self._thread.start()

    def offer(self, path: Path) -> None:
        """Send a checkpoint as soon as the one before is through; returns at once."""
        with self._change:
            self._waiting = path
            self._change.notify()

    def close(self) -> None:
        """Wait until what was offered last has been sent, or could not be."""
        with self._change:
            self._closed = True
            self._change.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._change:
                self.busy = None
                self._change.wait_for(lambda: self._waiting is not None or self._closed)
                path, self._waiting = self._waiting, None
                if path is None:
                    return
                self.busy = path
            try:
                self.copies.put(path)
                self.copies.drop_all_but(self.kept(self.copies.names()))
            except Exception as error:  # noqa: BLE001 - whatever the other place raises, the training goes on
                log.warning("the checkpoint %s was not copied, the training goes on: %s", path.name, error)
