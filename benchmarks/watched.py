"""What a piece of work takes in this process: seconds, processor seconds, and the most memory it holds meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Taken:
    """``before`` and ``highest``: bytes of anonymous memory when the work began, and at most while it ran."""

    seconds: float
    cpu: float
    before: int
    highest: int


def resident(field: str) -> int:
    """A field of the process's status (``RssAnon``, ``VmHWM``), in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) << 10


def watched(work: Callable[[], T]) -> tuple[T, Taken]:
    """Do ``work``; memory is looked at fifty times a second by a thread."""
    before, done = resident("RssAnon"), threading.Event()
    highest = [before]

    def watch() -> None:
        while not done.wait(0.02):
            highest[0] = max(highest[0], resident("RssAnon"))

    thread = threading.Thread(target=watch)
    thread.start()
    started = time.perf_counter(), time.process_time()
    try:
        result = work()
    finally:
        seconds, cpu = time.perf_counter() - started[0], time.process_time() - started[1]
        done.set()
        thread.join()
    return result, Taken(seconds, cpu, before, highest[0])
