"""The instance file as the daemon and the web server read it: they start, and do what it says."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dinov2_core.stages import registry

ROOT = Path(__file__).resolve().parents[2]
OWN = yaml.safe_load((ROOT / "infra" / "dagster.yaml").read_text())
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Puts a query to a web server that runs beside a daemon, as two processes on one instance.

    The database is made first: two processes that find none both make one, and one of them fails.
    """
    home = tmp_path_factory.mktemp("dagster")
    (home / "dagster.yaml").write_text((ROOT / "infra" / "dagster.yaml").read_text())
    env = {**os.environ, "DAGSTER_HOME": str(home), "DATA_ROOT": str(home / "data"), "PYTHONWARNINGS": "ignore"}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    bin_ = Path(sys.prefix) / "bin"
    commands = [
        [bin_ / "dagster-daemon", "run", "-w", "workspace.yaml"],
        [bin_ / "dagster-webserver", "-w", "workspace.yaml", "-h", "127.0.0.1", "-p", str(port)],
    ]
    subprocess.run([bin_ / "dagster", "instance", "migrate"], cwd=ROOT, env=env, capture_output=True, check=True)
    logs = [(home / f"{number}.log").open("w") for number in range(2)]
    started = [
        subprocess.Popen(c, cwd=ROOT, env=env, stdout=log, stderr=log, start_new_session=True)
        for c, log in zip(commands, logs, strict=True)
    ]

    def query(text: str) -> dict[str, Any]:
        body = json.dumps({"query": text}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{port}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            found = json.load(answer)
        assert "errors" not in found, found
        return dict(found["data"])

    until = time.monotonic() + 150
    try:
        while True:
            assert all(p.poll() is None for p in started), [Path(log.name).read_text()[-1500:] for log in logs]
            assert time.monotonic() < until, [Path(log.name).read_text()[-1500:] for log in logs]
            try:
                query("{ version }")
                break
            except OSError:
                time.sleep(0.5)
        yield query
    finally:
        for process in started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        for process in started:
            process.wait(30)


def test_every_daemon_that_is_asked_for_gives_a_heartbeat(ask: Any) -> None:
    text = "{ instance { daemonHealth { allDaemonStatuses { daemonType required healthy } } } }"
    until, late = time.monotonic() + 90, ["?"]
    while late:
        assert time.monotonic() < until, late
        found = ask(text)["instance"]["daemonHealth"]["allDaemonStatuses"]
        late = [d["daemonType"] for d in found if d["required"] and not d["healthy"]]
        time.sleep(1 if late else 0)
    required = {d["daemonType"] for d in found if d["required"]}
    assert {"SCHEDULER", "SENSOR", "QUEUED_RUN_COORDINATOR", "MONITORING"} <= required


def test_the_instance_does_what_the_file_says(ask: Any) -> None:
    found = yaml.safe_load(ask("{ instance { info } }")["instance"]["info"])
    for section in ("run_retries", "run_monitoring"):
        assert found[section] == OWN[section], section
    pools = ask("{ instance { poolConfig { defaultPoolLimit poolGranularity } } }")["instance"]["poolConfig"]
    assert pools["defaultPoolLimit"] == OWN["concurrency"]["pools"]["default_limit"]


def test_the_code_location_loads_with_every_asset(ask: Any) -> None:
    nodes = ask("{ assetNodes { assetKey { path } } }")["assetNodes"]
    assert set(registry.STAGES) <= {n["assetKey"]["path"][-1] for n in nodes}
