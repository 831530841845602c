"""MLflow 3 behind the few calls that assets make: a run a training, a logged model, an alias.

SQLite beside the checkout by default (MLflow's own default, so ``mlflow ui`` shows it); ``MLFLOW_TRACKING_URI`` names
a server. Tracking that is down never stops a training: metrics wait in memory and go out with the next batch.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg

MODEL_CODE = Path(__file__).with_name("pyfunc_model.py")
log = logging.getLogger(__name__)


class MetricBuffer:
    """A tracker ``(step, metrics)`` that sends batches to one MLflow run, in order, once, and never raises."""

    def __init__(self, client: Any, run_id: str, every_seconds: float = 5.0) -> None:
        self.client, self.run_id, self.every = client, run_id, every_seconds
        self.waiting: list[Any] = []
        self.sent_at = time.monotonic()
        self.complained = False

    def __call__(self, step: int, metrics: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self.waiting += [Metric(k, float(v), now, step) for k, v in metrics.items()]
        if time.monotonic() - self.sent_at >= self.every:
            self.flush()

    def flush(self) -> None:
        self.sent_at = time.monotonic()
        try:
            while self.waiting:
                self.client.log_batch(self.run_id, metrics=self.waiting[:1000])
                del self.waiting[:1000]
        except Exception as error:  # noqa: BLE001 - whatever tracking raises, training goes on
            if not self.complained:
                self.complained = True
                log.warning("tracking is down (%s); %d metrics wait in memory", error, len(self.waiting))


class Tracking(dg.ConfigurableResource):
    """The experiment tracker and model registry."""

    uri: str = ""
    experiment: str = "dinov2"
    model_name: str = "dinov2"

    @classmethod
    def from_environment(cls) -> Tracking:
        return cls(uri=os.environ.get("MLFLOW_TRACKING_URI", ""))

    def client(self) -> Any:
        """An ``MlflowClient`` on this tracker; the fluent API is set to the same place."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
        import mlflow

        for name in ("alembic", "mlflow"):
            logging.getLogger(name).setLevel(logging.WARNING)
        mlflow.set_tracking_uri(self.uri or "sqlite:///mlflow.db")
        return mlflow.MlflowClient()

    def experiment_id(self, client: Any) -> str:
        found = client.get_experiment_by_name(self.experiment)
        return str(found.experiment_id if found else client.create_experiment(self.experiment))

    def find_run(self, client: Any, stage: str, fingerprint: str) -> Any | None:
        """The run of this very training, where one was begun."""
        runs = client.search_runs(
            [self.experiment_id(client)],
            filter_string=f"tags.stage = '{stage}' and tags.fingerprint = '{fingerprint}'",
            max_results=1,
        )
        return runs[0] if runs else None

    @contextlib.contextmanager
    def training(
        self,
        stage: str,
        fingerprint: str,
        params: Mapping[str, Any],
        inputs: Mapping[str, str],
        tags: Mapping[str, str],
    ) -> Iterator[Any]:
        """A tracker on the run of this training: continued where it was begun and killed, else new.

        ``inputs`` maps ``stage/partition`` to the manifest hash of the data that goes in.
        """
        try:
            client = self.client()
            run = self.find_run(client, stage, fingerprint)
            if run is None:
                run = client.create_run(
                    self.experiment_id(client),
                    run_name=stage,
                    tags={
                        "stage": stage,
                        "fingerprint": fingerprint,
                        "git.commit": git_commit(),
                        **{f"manifest.{key}": value for key, value in inputs.items()},
                        **tags,
                    },
                )
                for key, value in params.items():
                    client.log_param(run.info.run_id, key, value)
                self._log_inputs(client, run.info.run_id, inputs)
            else:
                client.update_run(run.info.run_id, status="RUNNING")
        except Exception as error:  # noqa: BLE001 - whatever tracking raises, training goes on
            log.warning("tracking is not reachable (%s); this training is not tracked", error)
            yield None
            return
        buffer = MetricBuffer(client, run.info.run_id)
        status = "FAILED"
        try:
            yield buffer
            status = "FINISHED"
        finally:
            buffer.flush()
            with contextlib.suppress(Exception):
                client.set_terminated(run.info.run_id, status)

    @staticmethod
    def _log_inputs(client: Any, run_id: str, inputs: Mapping[str, str]) -> None:
        from mlflow.entities import Dataset, DatasetInput

        sets = [
            DatasetInput(
                Dataset(name=key, digest=value[:36], source_type="manifest", source=f'{{"manifest": "{value}"}}')
            )
            for key, value in inputs.items()
        ]
        client.log_inputs(run_id, sets)

    def find_version(self, client: Any, manifest_hash: str) -> Any | None:
        """The registered model version made from this manifest, or None."""
        for one in client.search_model_versions(f"name = '{self.model_name}'"):
            if one.tags.get("manifest") == manifest_hash:
                return one
        return None

    def champion(self, client: Any) -> Any | None:
        """The version that carries the alias ``champion``, or None."""
        from mlflow.exceptions import MlflowException

        try:
            return client.get_model_version_by_alias(self.model_name, "champion")
        except MlflowException:
            return None

    def register(
        self, folder: str, run_id: str, manifest_hash: str, metrics: Mapping[str, float], tags: Mapping[str, str]
    ) -> Any:
        """Log the model in ``folder`` under a training's run and register it; returns the model version."""
        client = self.client()
        import mlflow

        with mlflow.start_run(run_id=run_id):
            info = mlflow.pyfunc.log_model(
                name="model",
                # Code by path, weights as safetensors: nothing is pickled.
                python_model=str(MODEL_CODE),
                artifacts={"model": folder},
                pip_requirements=["dinov2-pipeline"],
                registered_model_name=self.model_name,
                tags={"manifest": manifest_hash, **tags},
            )
            mlflow.log_metrics(dict(metrics), model_id=info.model_id)
        version = client.get_model_version(self.model_name, info.registered_model_version)
        for key, value in {"manifest": manifest_hash, **tags}.items():
            client.set_model_version_tag(self.model_name, version.version, key, value)
        return version


def git_commit() -> str:
    """The checkout's commit, with ``+`` where files differ; ``unknown`` outside a checkout."""
    try:
        command = ["git", "describe", "--always", "--dirty=+", "--abbrev=40"]
        here = Path(__file__).parent
        run = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)  # noqa: S603
    except OSError:
        return "unknown"
    return run.stdout.strip() or "unknown"
