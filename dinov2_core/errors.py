"""The errors a user can cause, each ending in one clear line: what, where, what to do.

Faults of the outside world (a dead URL, a broken image) are rows with a reason, never exceptions. Faults of
ours are ordinary exceptions. What belongs here is the third kind: a setting, a path or a file that a person
can mend.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake that the person running the pipeline can mend.

    ``what`` says what is wrong, ``where`` names the stage, partition or file, ``todo`` says what to do.
    """

    def __init__(self, what: str, *, where: str = "", todo: str = "") -> None:
        self.what, self.where, self.todo = what, where, todo
        super().__init__(str(self))

    def __str__(self) -> str:
        where = f"{self.where}: " if self.where else ""
        todo = f" — {self.todo}" if self.todo else ""
        return f"{where}{self.what}{todo}"

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions with keyword arguments do not survive a process boundary by default.
        return (_rebuild, (type(self), self.what, self.where, self.todo))


def _rebuild(kind: type[UserError], what: str, where: str, todo: str) -> UserError:
    return kind(what, where=where, todo=todo)


class ConfigError(UserError):
    """A setting that does not exist or has the wrong form."""


class DamagedDataError(UserError):
    """A stored file is missing or does not have the size or checksum that its manifest states."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the closest known name, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean '{close[0]}'?)" if close else ""
