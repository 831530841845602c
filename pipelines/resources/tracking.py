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
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from dinov2_core.errors import UserError
from pipelines.resources import mlflow_database, provenance
from pipelines.resources.mlflow_delivery import Delivery, find_run, send_all
from pipelines.resources.mlflow_spool import Spool, read, waiting
from pipelines.resources.mlflow_trainings import Trainings


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
        uri = _credentials_apart(self.uri) or "sqlite:///mlflow.db"
        mlflow_database.ensure(uri)
        mlflow.set_tracking_uri(uri)
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

    def name_candidate(self, client: Any, version: Any) -> None:
        """Give a version the alias ``candidate`` unless a newer one has it."""
        from pipelines.resources.registry import name_candidate

        name_candidate(client, version)

    def champions(self, client: Any) -> Any:
        """Who is and was champion: promotion and rollback; see ``champions.py``."""
        from pipelines.resources.champions import Champions

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

    def finish(self, fingerprint: str) -> None:
        """End and send what is left of a training that has ended, and whose process had no time to say so."""
        left = [one for one in waiting(self.spool_folder) if one.fingerprint == fingerprint]
        for one in left:
            if [record["kind"] for record, _ in read(one.path)][-1] != "end":
                write = one.writer()
                write("end", status="FINISHED")
                write.close()
        # A tracker that is down stops nothing: it is sent with the next training then.
        with contextlib.suppress(Exception):
            self.deliver(left)

    def deliver(self, spools: list[Spool] | None = None) -> int:
        """Send what waits, of all trainings or of some; how many spools were there. Raises what MLflow raises."""
        spools = waiting(self.spool_folder) if spools is None else spools
        if spools:
            client = self.client()
            send_all(Delivery(one, client, lambda: self.experiment_id(client)) for one in spools)
        return len(spools)


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
