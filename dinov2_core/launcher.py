"""The seam between a training and whatever starts its processes: ``run(function, argument) → result``.

A launcher calls one function with one argument in every process and returns what the first of them returned. Here is
the one that needs no other process; those of torchrun and of clusters implement the same protocol elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

Function = Callable[[Any], Any]


class Launcher(Protocol):
    """Anything that can run a training's processes."""

    one_machine: ClassVar[bool]
    """whether all processes are on this machine, and share its disk"""

    def run(self, function: Function, argument: Any) -> Any:
        """What ``function(argument)`` returned in the first process; it is called in all of them.

        Both must be picklable: a function of a module, plain values.

        Raises:
            UserError: whatever a person can mend, from any of the processes; or processes that died too often.
            Preempted: the training was asked to end and has saved its state.
        """
        ...


@dataclass(frozen=True)
class InProcess:
    """This process alone."""

    one_machine: ClassVar[bool] = True

    def run(self, function: Function, argument: Any) -> Any:
        return function(argument)
