"""Tracking and promotion on real servers: MLflow's own, killed and started again, and PostgreSQL."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from assets.promotion import Verdict
from pipelines.resources.tracking import Tracking
from tests.pipelines import postgres
from tests.pipelines.tiny import free_port
from tests.pipelines.tracker import tracker

pytestmark = pytest.mark.slow


class Server:
    """``mlflow server`` on a database of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        tracker(folder)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db"]
        command += ["--serve-artifacts", "--artifacts-destination", str(self.folder / "artifacts")]
        with open(self.folder / "server.log", "ab") as out:
            # A group of its own: the server has children, which must die with it.
            self.process = subprocess.Popen(
                command, cwd=self.folder, stdout=out, stderr=out, start_new_session=True, env=quiet()
            )
        for _ in range(600):
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=1):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        raise AssertionError((self.folder / "server.log").read_text()[-2000:])

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


def quiet() -> dict[str, str]:
    return {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    one = Server(tmp_path_factory.mktemp("server"))
    one.start()
    yield one
    one.kill()


def test_a_server_killed_in_the_middle_has_everything_once_and_in_order(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    tracking = Tracking(uri=server.uri, spool=str(tmp_path), every=0.1, patience=60)
    longest = 0.0
    with tracking.training("pretrained_checkpoint", "f1", {"lr": 0.1}, {"curated_lvd/all": "ab" * 32}, {}) as tell:
        for step in range(40):
            if step == 15:
                server.kill()
            if step == 30:
                server.start()
            began = time.monotonic()
            tell(step, {"loss": float(step)})
            longest = max(longest, time.monotonic() - began)
            time.sleep(0.05)
    client = tracking.client()
    run = tracking.find_run(client, "pretrained_checkpoint", "f1")
    assert run is not None
    assert run.info.status == "FINISHED"
    assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "loss")] == [
        (s, float(s)) for s in range(40)
    ]
    assert not list(tmp_path.iterdir())
    assert longest < 2, "the training does not wait for the server"


def race(tracking: Tracking) -> list[tuple[str, str]]:
    """Two versions that judge the same champion at once: ``(version, before)`` of the history."""
    client = tracking.client()
    client.create_registered_model(tracking.model_name)
    for _ in range(2):
        client.create_model_version(tracking.model_name, source="s3://nowhere/model")
    both = threading.Barrier(2)

    def promote(version: str) -> None:
        def judge(held: Any) -> Verdict:
            if held is None:
                both.wait(60)
            return Verdict(held is None or int(version) > int(held.version), "better")

        tracking.champions(client).promote(version, judge)

    threads = [threading.Thread(target=promote, args=(version,)) for version in ("1", "2")]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert str(tracking.champion(client).version) == "2"
    history = tracking.champions(client).history()
    assert tracking.champions(client).roll_back(to="1")[1] == "1"
    return [(entry.version, entry.before) for entry in history]


POSSIBLE = ([("2", "")], [("1", ""), ("2", "1")])
"""The better one wins at once, or dethrones the other; never both from nothing."""


def test_two_at_once_cannot_both_win_through_a_server(server: Server) -> None:
    if server.process is None:
        server.start()
    assert race(Tracking(uri=server.uri, model_name="raced")) in POSSIBLE


@pytest.mark.skipif(postgres.programs() is None, reason="there is no PostgreSQL server on this machine")
def test_two_at_once_cannot_both_win_on_postgresql() -> None:
    with postgres.server() as address:
        assert race(Tracking(uri=f"{address}/mlflow", model_name="raced")) in POSSIBLE
