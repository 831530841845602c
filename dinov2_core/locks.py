"""One writer a partition at a time: on a local disk an advisory lock that its holder's death releases, on an object
store a lease (``leases.py``).
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from dinov2_core import leases
from dinov2_core.errors import UserError
from dinov2_core.storage import Store

log = logging.getLogger(__name__)
FOLDER = ".locks"
"""Below the root, and in no stage's folder: a lock file belongs to no version of the data."""


@contextlib.contextmanager
def partition_lock(store: Store, stage: str, partition: str, *, wait: bool = True) -> Iterator[bool]:
    """Hold the one right to write ``stage/partition``; waits while another process or thread has it.

    With ``wait`` off it yields False at once, holding nothing, where another has it.
    """
    if not store.local:
        with leases.lease(store, f"{FOLDER}/{stage}/{partition}", wait=wait) as held:
            yield held
        return
    if os.name != "posix":
        yield True
        return
    import fcntl

    path = Path(store.full(f"{FOLDER}/{stage}/{partition}"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise UserError(f"cannot write: {error}", where=store.root, todo="check DATA_ROOT and its disk") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                yield False
                return
            log.warning("%s/%s is being made by another run; waiting for it", stage, partition)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield True
    finally:
        os.close(descriptor)


def busy(store: Store) -> list[tuple[str, str]]:
    """``(stage, partition)`` of every run that is writing now."""
    found = []
    for stage in sorted(store.folders(FOLDER)):
        for path in store.find(f"{FOLDER}/{stage}"):
            partition = path.rsplit("/", 1)[-1]
            if store.local:
                with partition_lock(store, stage, partition, wait=False) as free:
                    held = not free
            else:
                held = leases.alive(store, path)
            if held:
                found.append((stage, partition))
    return found
