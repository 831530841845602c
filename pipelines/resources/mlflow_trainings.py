"""What a stage that trains is given to tell the tracker by: a run for the stage, one below it for each named training.

It writes to spools and sends them by a thread; how is in ``mlflow_spool.py`` and ``mlflow_delivery.py``.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipelines.resources.mlflow_delivery import Courier, Delivery, send_all
from pipelines.resources.mlflow_spool import Spool, Writer, waiting

log = logging.getLogger(__name__)


class Trainings:
    """The tracker of a stage that trains, ``(step, metrics)``; :meth:`begin` tells its trainings apart."""

    def __init__(
        self,
        tracking: Any,
        stage: str,
        fingerprint: str,
        inputs: Mapping[str, Mapping[str, str]],
        tags: Mapping[str, str],
    ) -> None:
        self._tracking, self._inputs, self._tags = tracking, inputs, tags
        self._stage, self._fingerprint = stage, fingerprint
        self._write = self._spool(stage).writer()
        self._writers = [self._write]
        self._deliveries: dict[Path, Delivery] = {}
        self._checkpoints: list[_Checkpoints] = []
        self._courier: Courier | None = None
        self._system: Any = None
        self._ticking = threading.Lock()

    def __call__(self, step: int, metrics: Mapping[str, float]) -> None:
        _metrics(self._write, step, metrics)

    def start(self, parent: tuple[str, str] | None, params: Mapping[str, Any]) -> None:
        from pipelines.resources.mlflow_system import SystemMetrics

        self._begin(self._write, self._stage, self._stage, parent, params)
        self._system = SystemMetrics(self._tracking.system_every)
        self._tick()
        self._courier = Courier(self._send, self._tick, self._tracking.every)

    @contextlib.contextmanager
    def begin(self, name: str, recipe: Mapping[str, Any], checkpoints: Path) -> Iterator[Any]:
        """See ``dinov2_core.tracker.TellsTrainingsApart``."""
        from assets.training import flatten
        from dinov2_core.config import canonical_json

        write, stage = self._write, f"{self._stage}.{name}"
        if name:
            write = self._spool(stage).writer()
            self._writers.append(write)
            self._begin(write, name, stage, (self._stage, self._fingerprint), {})
        write("params", values={f"recipe.{key}": str(value) for key, value in flatten(recipe).items()})
        write("text", path="recipe.json", text=canonical_json(recipe))
        watched = _Checkpoints(checkpoints, write) if self._tracking.sends_checkpoints else None
        if watched:
            self._checkpoints.append(watched)
        status = "FAILED"
        try:
            yield lambda step, metrics: _metrics(write, step, metrics)
            status = "FINISHED"
        finally:
            with self._ticking:
                if watched:
                    self._checkpoints.remove(watched)
                    watched.keep()
                if name:
                    write("end", status=status)

    def stop(self, status: str) -> None:
        """End the run and wait a while for the tracker to have it all; what it has not is sent later."""
        with self._ticking:
            self._write("end", status=status)
            for write in self._writers:
                write.close()
        if self._courier is not None and not self._courier.close(self._tracking.patience):
            log.warning(
                "the tracker has not taken everything; the rest waits in %s and is sent with the next training or by "
                "`python -m pipelines.resources.tracking`",
                self._tracking.spool_folder,
            )

    def _spool(self, stage: str) -> Spool:
        return Spool(self._tracking.spool_folder, stage, self._fingerprint)

    def _begin(
        self, write: Writer, name: str, stage: str, parent: tuple[str, str] | None, params: Mapping[str, Any]
    ) -> None:
        write(
            "begin",
            name=name,
            stage=stage,
            fingerprint=self._fingerprint,
            parent=parent,
            params={key: str(value) for key, value in params.items()},
            inputs=self._inputs,
            tags={**{f"manifest.{key}": one["manifest"] for key, one in self._inputs.items()}, **self._tags},
        )

    def _tick(self) -> None:
        with self._ticking:
            for watched in self._checkpoints:
                watched.keep()
            if self._system is not None and (values := self._system.sample()):
                self._write("metrics", step=None, values=values)

    def _send(self) -> None:
        client = self._tracking.client()
        # Its own first: what others left may be of another tracker.
        spools = sorted(waiting(self._tracking.spool_folder), key=lambda one: one.fingerprint != self._fingerprint)
        send_all(
            self._deliveries.setdefault(
                spool.path, Delivery(spool, client, lambda: self._tracking.experiment_id(client))
            )
            for spool in spools
        )


class _Checkpoints:
    """Keeps each new whole checkpoint of a folder for the tracker."""

    def __init__(self, folder: Path, write: Writer) -> None:
        self.folder, self.write = folder, write
        self.seen: set[str] = set()

    def keep(self) -> None:
        # A checkpoint gets its name when all of it is written.
        for path in sorted(self.folder.glob("step-*")):
            if path.name not in self.seen:
                self.seen.add(path.name)
                self.write.keep(path, f"checkpoints/{path.name}")


def _metrics(write: Writer, step: int, metrics: Mapping[str, float]) -> None:
    write("metrics", step=step, values={key: float(value) for key, value in metrics.items()})
