"""What a stage that runs as a job on a cluster and whoever waits for it tell each other, by files on storage.

The files of a job lie below ``.jobs/ID`` in the data root: ``request.json``, written before it is submitted,
``heartbeat.json``, written anew while it runs, and ``result.json``, written last. No connection has to hold as long as
a stage takes.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from dinov2_core import config
from dinov2_core.errors import UserError
from dinov2_core.storage import Store

FOLDER = ".jobs"


@dataclass(frozen=True)
class Request:
    """One partition of one stage, with its settings as they stand in the settings file."""

    data_root: str
    stage: str
    partition: str
    params: Mapping[str, Any] = field(default_factory=dict)
    verify: bool = False
    tracked: bool = False
    """whether the stage trains, and its training is tracked"""
    run_id: str = ""
    """of the orchestrator's run"""

    @property
    def work(self) -> str:
        """The same for requests that would do the same work, whichever run asks."""
        name = "".join(c if c.isalnum() else "-" for c in f"{self.stage}-{self.partition}".lower())
        return f"dinov2-{name[:80]}-{config.digest([self.data_root, self.params])[:10]}"


@dataclass(frozen=True)
class Result:
    """How a job ended: with a manifest, or with a user's error. Other errors leave no result."""

    manifest: str = ""
    """its hash"""
    fresh: bool = False
    seconds: float = 0.0
    what: str = ""
    where: str = ""
    todo: str = ""

    def raise_error(self) -> None:
        """Raises: UserError: what ended the job."""
        if self.what:
            raise UserError(self.what, where=self.where, todo=self.todo)


@dataclass(frozen=True)
class Messages:
    """The files of the job ``identity``."""

    store: Store
    identity: str

    def _path(self, name: str) -> str:
        return f"{FOLDER}/{self.identity}/{name}.json"

    def write(self, name: str, body: Request | Result | Mapping[str, Any]) -> None:
        plain = body if isinstance(body, Mapping) else asdict(body)
        self.store.write_bytes(self._path(name), json.dumps(plain).encode())

    def _read(self, name: str) -> dict[str, Any] | None:
        path = self._path(name)
        return json.loads(self.store.read_bytes(path)) if self.store.exists(path) else None

    def request(self) -> Request:
        body = self._read("request")
        if body is None:
            raise UserError("there is no such job", where=f"{self.store.root}/{FOLDER}/{self.identity}")
        return config.build(Request, body, where=self.identity)

    def result(self) -> Result | None:
        body = self._read("result")
        return None if body is None else config.build(Result, body, where=self.identity)

    def beat(self) -> int:
        """Counts up while the job lives; −1 before its first."""
        return int((self._read("heartbeat") or {"beat": -1})["beat"])

    def remove(self) -> None:
        self.store.delete(f"{FOLDER}/{self.identity}")

    @contextlib.contextmanager
    def beating(self, every: float) -> Any:
        """A thread writes heartbeats, the first at once, while inside."""
        ended = threading.Event()

        def beat() -> None:
            count = 0
            while True:
                # Storage that is away for a while is no reason to end the work.
                with contextlib.suppress(Exception):
                    self.write("heartbeat", {"beat": count, "at": time.strftime("%Y-%m-%dT%H:%M:%S%z")})
                count += 1
                if ended.wait(every):
                    return

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join(timeout=10)
