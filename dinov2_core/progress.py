"""Progress with an estimated time of arrival, for everything that takes longer than a few seconds.

A bar on a terminal, a line every few seconds elsewhere (logs, CI). Silent until a task has run two seconds.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TextIO, TypeVar

T = TypeVar("T")


class Progress:
    """Counts towards ``total`` and says so on ``stream``; use as a context manager."""

    def __init__(self, label: str, total: int | None, *, stream: TextIO | None = None, every: float = 5.0) -> None:
        self.label, self.total, self.done = label, total, 0
        self.stream = stream or sys.stderr
        self.bar = self.stream.isatty()
        self.every = 0.2 if self.bar else every
        self.started = time.monotonic()
        self.said = self.started
        self.spoke: int | None = None
        self.note = ""

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        # On a terminal the last word ends the line; in a log it would repeat what stands there.
        if self.spoke is not None and (self.bar or self.spoke != self.done):
            self._say(end="\n")

    def advance(self, count: int = 1, note: str = "") -> None:
        self.done += count
        self.note = note or self.note
        now = time.monotonic()
        if now - self.said >= self.every and now - self.started >= min(2.0, self.every):
            self.said = now
            self._say(end="" if self.bar else "\n")

    def _say(self, end: str) -> None:
        seconds = time.monotonic() - self.started
        rate = self.done / seconds if seconds else 0.0
        self.spoke = self.done
        text = f"{self.label}: {self.done}"
        if self.total:
            text += f"/{self.total} ({100 * self.done / self.total:.0f} %)"
        text += f", {rate:.1f}/s, {clock(seconds)}"
        if self.total and rate and self.done < self.total:
            text += f", {clock((self.total - self.done) / rate)} left"
        if self.note:
            text += f", {self.note}"
        print(("\r\x1b[K" if self.bar else "") + text, end=end, file=self.stream, flush=True)


def clock(seconds: float) -> str:
    """``75.2`` → ``1:15``."""
    whole = int(seconds)
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


def track(
    items: Iterable[T], label: str, total: int | None = None, *, size: Callable[[T], int] | None = None
) -> Iterator[T]:
    """Iterate with progress. ``size`` says how much each item counts."""
    if total is None and size is None and hasattr(items, "__len__"):
        total = len(items)  # type: ignore[arg-type]
    with Progress(label, total) as progress:
        for item in items:
            yield item
            progress.advance(size(item) if size else 1)
