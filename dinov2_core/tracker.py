"""What a training tells while it runs, and to whom: the interface only. Trackers themselves are not of the core."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

Tracker = Callable[[int, Mapping[str, float]], None]
"""Takes (step, metrics). Must not raise: tracking that is down never stops a run."""


@runtime_checkable
class TellsTrainingsApart(Protocol):
    """A :data:`Tracker` that can be told what is trained, for stages that train more than once."""

    def begin(self, name: str, recipe: Mapping[str, Any], checkpoints: Path) -> AbstractContextManager[Tracker]:
        """The tracker of one training: the stage's own where ``name`` is empty, else of one below it, by that name.

        ``recipe`` is the whole recipe as plain values; ``checkpoints`` the folder where they will appear.
        """
