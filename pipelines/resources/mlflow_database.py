"""The tracker's SQLite file, made beside its place and moved there when all of its tables are.

MLflow makes a new file in some forty steps of which SQLite undoes none: killed between two of them, it can neither be
used nor mended by starting again. Databases of servers undo what was not finished, and are no business of this module.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

_PREFIX = "sqlite:///"


def file_of(uri: str) -> Path | None:
    """The file of a SQLite address; None for every other tracker."""
    name = uri.removeprefix(_PREFIX).partition("?")[0]
    return Path(name) if uri.startswith(_PREFIX) and name and not name.startswith((":memory:", "file:")) else None


def ensure(uri: str) -> None:
    """Make the file that ``uri`` names, with its tables, where it is not there; of several at once one does it."""
    path = file_of(uri)
    if path is None or path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_name(f".{path.name}.lock"), "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            return
        temporary = path.with_name(f".{path.name}.new")
        for left in (temporary, temporary.with_name(f"{temporary.name}-journal")):
            left.unlink(missing_ok=True)
        _make(temporary)
        os.replace(temporary, path)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(lock.name)


def _make(path: Path) -> None:
    from mlflow.store.db import utils

    engine = utils.create_sqlalchemy_engine_with_retry(f"{_PREFIX}{path}")
    utils._initialize_tables(engine)
    engine.dispose()
