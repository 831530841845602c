"""MLflow 3 as the tracker of trainings: a run a training, one below it for each training that is part of it.

SQLite beside the checkout by default (MLflow's own default, so ``mlflow ui`` shows it); ``MLFLOW_TRACKING_URI`` names
a server. A tracker that is down never stops a training: what is to be told is spooled (``mlflow_spool.py``) and sent
by a thread (``mlflow_delivery.py``), at the latest when the next training starts or by
``python -m pipelines.resources.tracking``. Models and aliases are in ``registry.py``.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from dinov2_core.errors import UserError
from pipelines.resources import provenance
from pipelines.resources.mlflow_delivery import Courier, Delivery, find_run
from pipelines.resources.mlflow_spool import Spool, Writer, waiting

log = logging.getLogger(__name__)


class Tracking(dg.ConfigurableResource):
    """The experiment tracker, and the name of the registered model.

    ``spool``: the folder of what waits to be sent, on a disk that outlives the process (environment: ``DINOV2_SPOOL``).
    ``checkpoints``: send the checkpoints as artifacts too (``DINOV2_TRACK_CHECKPOINTS=1``). ``patience``: seconds that
    a training which has ended waits for the tracker. ``every``, ``system_every``: seconds between two sendings, and
    between two samples of the machine.
    """

    uri: str = ""
    experiment: str = "dinov2"
    model_name: str = "dinov2"
    spool: str = ""
    every: float = 5.0
    patience: float = 30.0
    system_every: float = 10.0
    checkpoints: bool = False

    @classmethod
    def from_environment(cls) -> Tracking:
        return cls(uri=os.environ.get("MLFLOW_TRACKING_URI", ""))

    @property
    def spool_folder(self) -> Path:
        return Path(self.spool or os.environ.get("DINOV2_SPOOL") or "mlspool")

    @property
    def sends_checkpoints(self) -> bool:
        return self.checkpoints or os.environ.get("DINOV2_TRACK_CHECKPOINTS", "") not in ("", "0")

    def client(self) -> Any:
        """An ``MlflowClient`` on this tracker; the fluent API is set to the same place."""
        mlflow = _mlflow()
        mlflow.set_tracking_uri(_credentials_apart(self.uri) or "sqlite:///mlflow.db")
        return mlflow.MlflowClient()

    def answering(self) -> Any:
        """A client of a tracker that answers.

        Raises:
            UserError: it does not.
        """
        try:
            client = self.client()
            self.experiment_id(client)
        except Exception as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            todo = "start the server, or mend MLFLOW_TRACKING_URI, and run this again; what is computed is kept"
            raise UserError(
                f"the tracker does not answer ({first})", where=_without_password(self.uri), todo=todo
            ) from error
        return client

    def experiment_id(self, client: Any) -> str:
        from mlflow.exceptions import MlflowException

        found = client.get_experiment_by_name(self.experiment)
        if found is None:
            try:
                return str(client.create_experiment(self.experiment))
            except MlflowException:  # somebody else was first
                found = client.get_experiment_by_name(self.experiment)
        return str(found.experiment_id)

    def find_run(self, client: Any, stage: str, fingerprint: str) -> Any | None:
        """The run of this very training, where one was begun; what it has not been told yet is sent first."""
        self.deliver([one for one in waiting(self.spool_folder) if one.fingerprint == fingerprint])
        return find_run(client, self.experiment_id(client), stage, fingerprint)

    def find_version(self, client: Any, manifest_hash: str) -> Any | None:
        """The registered model version made from this manifest, or None."""
        from pipelines.resources.registry import find_version

        return find_version(client, self.model_name, manifest_hash)

    def register(
        self,
        client: Any,
        folder: str,
        run_id: str,
        manifest_hash: str,
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
    ) -> Any:
        """Log and register the model in ``folder`` as candidate; see ``registry.register``."""
        from pipelines.resources.registry import register

        return register(client, self.model_name, folder, run_id, manifest_hash, metrics, tags)

    def champions(self, client: Any) -> Any:
        """Who is and was champion: promotion and rollback; see ``registry.Champions``."""
        from pipelines.resources.registry import Champions

        return Champions(client, self.model_name)

    def champion(self, client: Any) -> Any | None:
        """The version that carries the alias ``champion``, or None."""
        from pipelines.resources.registry import aliased

        return aliased(client, self.model_name, "champion")

    @contextlib.contextmanager
    def training(
        self,
        stage: str,
        fingerprint: str,
        params: Mapping[str, Any],
        inputs: Mapping[str, str],
        tags: Mapping[str, str],
        *,
        parent: tuple[str, str] | None = None,
        root: str = "",
    ) -> Iterator[Trainings]:
        """A tracker on the run of this training: continued where it was begun and killed, else new.

        Args:
            inputs: maps ``stage/partition`` to the manifest hash of the data that goes in; they lie below ``root``.
            parent: stage and fingerprint of the training that this one is part of.
        """
        _mlflow()  # here and not in the thread: imports and forks do not mix
        sets = {
            key: {"manifest": value, **({"uri": f"{root}/{key}/manifest.json"} if root else {})}
            for key, value in inputs.items()
        }
        trainings = Trainings(self, stage, fingerprint, sets, {**provenance.tags(), **tags})
        status = "FAILED"
        try:
            trainings.start(parent, params)
            yield trainings
            status = "FINISHED"
        except Exception:
            raise
        except BaseException:
            status = "KILLED"
            raise
        finally:
            trainings.stop(status)

    def deliver(self, spools: list[Spool] | None = None) -> int:
        """Send what waits, of all trainings or of some; how many spools were there. Raises what MLflow raises."""
        spools = waiting(self.spool_folder) if spools is None else spools
        if spools:
            client = self.client()
            for one in spools:
                Delivery(one, client, lambda: self.experiment_id(client)).send()
        return len(spools)


class Trainings:
    """The tracker of a stage that trains, ``(step, metrics)``; :meth:`begin` tells its trainings apart."""

    def __init__(
        self,
        tracking: Tracking,
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
        """See ``dinov2_core.stage.TellsTrainingsApart``."""
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
        for spool in spools:
            delivery = self._deliveries.setdefault(
                spool.path, Delivery(spool, client, lambda: self._tracking.experiment_id(client))
            )
            delivery.send()


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


def _mlflow() -> Any:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    # A server that is gone should be noticed in seconds: who sends tries again anyway.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    import mlflow

    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return mlflow


def _credentials_apart(uri: str) -> str:
    """The address of a server without user and password, which go to where MLflow looks for them.

    Its errors, and with them logs and run events, name the address that it was given.
    """
    parts = urllib.parse.urlsplit(uri)
    if parts.scheme not in ("http", "https") or "@" not in parts.netloc:
        return uri
    os.environ["MLFLOW_TRACKING_USERNAME"] = urllib.parse.unquote(parts.username or "")
    os.environ["MLFLOW_TRACKING_PASSWORD"] = urllib.parse.unquote(parts.password or "")
    return urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _without_password(uri: str) -> str:
    start, at, rest = uri.rpartition("@")
    return f"{start.partition('://')[0]}://…@{rest}" if at else uri


def main() -> int:
    """Send what waits in the spool."""
    tracking = Tracking.from_environment()
    try:
        tracking.answering()
        count = tracking.deliver()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{count} trainings had something to send; {len(waiting(tracking.spool_folder))} still have")
    return 0


if __name__ == "__main__":
    sys.exit(main())
