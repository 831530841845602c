"""Ending on request: SIGTERM and SIGUSR1 let the step finish and the state be saved."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

EXIT_CODE = 75
"""What a command exits with after :class:`Preempted` (``EX_TEMPFAIL``: run the same command again to go on)."""
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Preempted(Exception):  # noqa: N818 - nothing went wrong
    """The run was asked to end; its state after ``step`` steps is saved."""

    def __init__(self, step: int) -> None:
        self.step = step
        super().__init__(f"stopped on request after step {step}; the same command goes on from there")

    def __reduce__(self) -> tuple[Any, ...]:
        return Preempted, (self.step,)


class Preemption:
    """Within it :attr:`asked` tells whether a signal has come. Outside the main thread it hears nothing."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Preemption:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._hear) for number in SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
