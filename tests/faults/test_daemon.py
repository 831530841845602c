"""Real processes: a daemon, a code server and the run worker, each killed in the middle of each kind of asset.

A batch is dropped below the sources; the sensor makes it a partition and a run. Inside a stage the daemon, the code
server and the run worker are killed one after the other, and the first two started again, as a supervisor would. The
run is then found dead, tried again, and ends with the manifests of a run that nothing happened to.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import yaml

from pipelines.all_batches import PROCESS
from tests import toy_pipeline
from tests.faults.processes import ROOT, wait_for
from tests.faults.test_disk_and_clock import entered, hold
from tests.pipelines.tiny import free_port

pytestmark = pytest.mark.slow
STAGES = ("raw_crawl", "embeddings", "curated_lvd")
PATIENCE = 400


class Site:
    """A Dagster home, its two processes, and the toy's data below ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home, self.port = folder, folder / "home", free_port()
        toy_pipeline.lake(folder)
        self.home.mkdir()
        settings = yaml.safe_load((ROOT / "infra/dagster.yaml").read_text())
        (self.home / "dagster.yaml").write_text(yaml.safe_dump(settings))
        server = {"grpc_server": {"host": "127.0.0.1", "port": self.port, "location_name": "toy"}}
        (folder / "workspace.yaml").write_text(yaml.safe_dump({"load_from": [server]}))
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.instance = dg.DagsterInstance.from_config(str(self.home))

    def start(self, name: str) -> None:
        """Start ``daemon`` or ``code``."""
        programs = {
            "code": [
                "-m",
                "dagster",
                "api",
                "grpc",
                "-m",
                "tests.toy_location",
                "-h",
                "127.0.0.1",
                "-p",
                str(self.port),
            ],
            "daemon": ["-m", "dagster._daemon", "run", "-w", str(self.folder / "workspace.yaml")],
        }
        env = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "ignore",
            "DAGSTER_HOME": str(self.home),
            "DATA_ROOT": str(self.folder / "data"),
            "DINOV2_PARAMS": str(self.folder / "params.yaml"),
            "DINOV2_WORKERS": "-1",
            "DINOV2_AUTOMATION": "on",
            "DINOV2_LOOK_SECONDS": "1",
        }
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, *programs[name]], cwd=ROOT, env=env, stdout=log, stderr=log
            )

    def kill(self, name: str) -> None:
        self.processes[name].kill()
        self.processes[name].wait()

    def runs(self, *statuses: dg.DagsterRunStatus) -> list[dg.DagsterRun]:
        return list(self.instance.get_runs(dg.RunsFilter(statuses=list(statuses) or None)))

    def log(self) -> str:
        """The ends of both logs, for a message."""
        return "\n".join(p.read_text()[-1500:] for p in sorted(self.folder.glob("*.log")))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("site"))
    try:
        site.start("code")
        site.start("daemon")
        yield site
    finally:
        for process in site.processes.values():
            process.kill()
            process.wait()
        for run in site.runs(dg.DagsterRunStatus.STARTED):
            pid = run.tags.get(PROCESS, "").rpartition(":")[2]
            if pid:
                os.kill(int(pid), signal.SIGKILL)
        site.instance.dispose()


@pytest.mark.parametrize("number", range(len(STAGES)), ids=STAGES)
def test_daemon_code_server_and_worker_are_killed_inside_a_stage(site: Site, number: int) -> None:
    stage, batch = STAGES[number], f"b{number + 1}"
    label = f"{stage}/{'all' if stage == 'curated_lvd' else batch}"
    before = len(site.runs())
    begun = toy_pipeline.calls(site.folder)
    held = hold(site.folder, stage)
    toy_pipeline.put(site.folder, batch, f"{number + 1}\n")
    known = {c for c in begun if c.startswith(label.replace("/", "-"))}
    wait_for(
        lambda: entered(site.folder, label) and set(toy_pipeline.calls(site.folder)) - known - set(begun),
        f"the run of {batch} is inside {stage}: {site.log()}",
        PATIENCE,
    )
    wait_for(lambda: len(toy_pipeline.calls(site.folder)) >= len(begun) + 2, f"inside {stage}", PATIENCE)
    wait_for(lambda: site.runs(dg.DagsterRunStatus.STARTED), "the run is recorded", PATIENCE)
    (run,) = site.runs(dg.DagsterRunStatus.STARTED)
    wait_for(lambda: len(inside(site, label, begun)) == 2, f"the second shard of {label} waits", PATIENCE)
    site.kill("daemon")
    site.start("daemon")
    site.kill("code")
    site.start("code")
    os.kill(int(run.tags[PROCESS].rpartition(":")[2]), signal.SIGKILL)
    held.unlink()
    wait_for(
        lambda: [r for r in site.runs(dg.DagsterRunStatus.SUCCESS) if r.parent_run_id == run.run_id],
        f"the killed run is found, tried again and succeeds: {site.log()}",
        PATIENCE,
    )
    killed = site.instance.get_run_by_id(run.run_id)
    assert killed is not None
    assert killed.status is dg.DagsterRunStatus.FAILURE
    assert len(site.runs()) == before + 2, "one run, and one more after the kill"
    again = [c for c in inside(site, label, begun) if c.rsplit("-", 2)[1] == "00000"]
    assert len(again) == 1, "the shard that was finished is not made again"
    batches = [f"b{n + 1}" for n in range(number + 1)]
    assert site.instance.get_dynamic_partitions("crawl_batches") == batches


def inside(site: Site, label: str, begun: list[str]) -> list[str]:
    """Tasks of ``STAGE/PARTITION`` that began since ``begun``."""
    new = set(toy_pipeline.calls(site.folder)) - set(begun)
    return [c for c in sorted(new) if c.startswith(label.replace("/", "-") + "-")]


def test_nothing_is_lost_and_nothing_double(site: Site, tmp_path: Path) -> None:
    from dinov2_core import stage
    from dinov2_core.storage import Store

    toy_pipeline.lake(tmp_path)
    store = Store(str(tmp_path / "data"))
    for number in range(len(STAGES)):
        toy_pipeline.put(tmp_path, f"b{number + 1}", f"{number + 1}\n")
        stage.materialise(store, toy_pipeline.STAGES["raw_crawl"], f"b{number + 1}")
        stage.materialise(store, toy_pipeline.STAGES["embeddings"], f"b{number + 1}")
    for name in ("seed_embeddings", "curated_lvd"):
        stage.materialise(store, toy_pipeline.STAGES[name])
    assert toy_pipeline.manifests(site.folder) == toy_pipeline.manifests(tmp_path)
    for name in ("raw_crawl", "embeddings"):
        done = [c for c in toy_pipeline.calls(site.folder) if c.startswith(f"{name}-")]
        twice = [c for c in done if not c.endswith("-0")]
        assert len(done) == 3 * toy_pipeline.SHARDS + len(twice)
        assert len(twice) == 1, "the shard in which the worker was killed"
    assert not site.runs(dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.STARTING)
    slots = site.instance.event_log_storage.get_concurrency_info("accelerator")
    assert slots.active_slot_count == 0


def test_the_server_that_watches_code_listens_on_loopback_only(site: Site) -> None:
    lines = [
        line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    wanted = f"{site.port:04X}"
    listening = {line[1].split(":")[0] for line in lines if line[3] == "0A" and line[1].endswith(f":{wanted}")}
    # 127.0.0.1, as IPv4 or mapped into IPv6: what gRPC opens depends on the machine.
    assert listening
    assert listening <= {"0100007F", "0000000000000000FFFF00000100007F"}
