"""One writer a partition at a time on an object store: an object that its holder renews, and that ends with it.

The object is made by a conditional write, so of two runs one gets it (a server without conditional writes lets the
last one win, which reading it back shows). A holder that died on this machine is seen at once; of one elsewhere, the
lease ends ``TTL`` seconds after its last renewal, by the store's own clock. Locks of local disks are in ``locks.py``.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dinov2_core.errors import DamagedDataError, UserError
from dinov2_core.storage import Store

TTL, RENEW, POLL = 300.0, 30.0, 2.0
log = logging.getLogger(__name__)


def place() -> dict[str, Any]:
    """This process: host, boot, process namespace, number and start, as far as the system tells."""
    return {"host": f"{socket.gethostname()} {_text('/proc/sys/kernel/random/boot_id')} {_namespace()}", **_process()}


def _process(pid: int | None = None) -> dict[str, Any]:
    pid = pid or os.getpid()
    # A number is used again after a while; with its start it is not.
    return {"pid": pid, "start": _text(f"/proc/{pid}/stat").rpartition(")")[2].split()[19:20]}


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _text(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def alive(store: Store, path: str) -> bool:
    """Whether the lease at ``path`` has a holder that still works."""
    holder = _read(store, path)
    if holder is None:
        return False
    here = place()
    if holder["host"] == here["host"] and here["start"]:
        return bool(_process(holder["pid"]) == {"pid": holder["pid"], "start": holder["start"]})
    entries = {e.path: e.modified for e in store.listing(path.rpartition("/")[0])}
    return path in entries and _now(store) - entries[path] < TTL


def _read(store: Store, path: str) -> dict[str, Any] | None:
    try:
        found = json.loads(store.read_bytes(path))
    except (DamagedDataError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _now(store: Store) -> float:
    """The store's clock: when it says that a file of this moment was written."""
    path = f".clock/{secrets.token_hex(8)}"
    store.write_bytes(path, b"")
    try:
        return next((e.modified for e in store.listing(".clock") if e.path == path), time.time())
    finally:
        store.delete(path)


@contextlib.contextmanager
def lease(store: Store, path: str, *, wait: bool = True) -> Iterator[bool]:
    """Hold the lease at ``path``. Yields False, holding nothing, where another holds it and ``wait`` is off."""
    token = secrets.token_hex(16)
    if not _take(store, path, token, wait):
        yield False
        return
    ended = threading.Event()
    renewing = threading.Thread(target=_renew, args=(store, path, token, ended), daemon=True)
    renewing.start()
    try:
        yield True
    finally:
        ended.set()
        renewing.join()
        # Whoever could not be reached for long may have lost it to another.
        with contextlib.suppress(UserError):
            if (_read(store, path) or {}).get("token") == token:
                store.delete(path)


def _take(store: Store, path: str, token: str, wait: bool) -> bool:
    body = json.dumps({"token": token, **place()}).encode()
    told = False
    while True:
        # It may exist because a repeated request finds what the first one wrote.
        with contextlib.suppress(FileExistsError):
            store.write_bytes(path, body, exclusive=True)
        if (_read(store, path) or {}).get("token") == token:
            return True
        if not alive(store, path):
            log.warning("the run that held %s has ended without saying so", path)
            store.delete(path)
            continue
        if not wait:
            return False
        if not told:
            told = True
            log.warning("%s is held by another run; waiting for it", path)
        time.sleep(POLL * (0.5 + random.random()))  # noqa: S311 - waiters should not knock at once


def _renew(store: Store, path: str, token: str, ended: threading.Event) -> None:
    body = json.dumps({"token": token, **place()}).encode()
    while not ended.wait(RENEW):
        with contextlib.suppress(UserError):
            if (_read(store, path) or {}).get("token") != token:
                log.warning("the lease %s was lost to another run", path)
                return
            store.write_bytes(path, body)
