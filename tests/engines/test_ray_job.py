"""A stage as a job on a cluster: the same data, and whoever dies or lets go leaves nothing running or lost."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dinov2_core import stage
from dinov2_core.errors import UserError
from dinov2_core.manifest import WHOLE
from dinov2_core.shard_map import ProcessShardMap
from dinov2_core.storage import Store
from pipelines.engines.ray_pool import close_pools
from pipelines.launchers.job_messages import FOLDER, Messages, Request
from pipelines.launchers.ray_job import RayJobs
from pipelines.resources.engine import Engine
from tests import toy_pipeline
from tests.engines import toy_job

pytestmark = [pytest.mark.slow, pytest.mark.cluster]
STAGE = "seed_embeddings"


@pytest.fixture
def jobs(cluster: Any, tmp_path: Path) -> Iterator[RayJobs]:
    close_pools()
    toy_pipeline.lake(tmp_path)
    address = f"http://{cluster.head_node.webui_url}"
    made = RayJobs(
        address,
        folder=os.getcwd(),
        python=toy_job.interpreter(tmp_path / "python"),
        poll=0.2,
        heartbeat=0.5,
        silence=60,
    )
    yield made
    for job in made._client().list_jobs():
        # Programs that joined the cluster, such as this one, are listed too.
        if job.submission_id and not job.status.is_terminal():
            made._client().stop_job(job.submission_id)


def request(folder: Path, **params: Any) -> Request:
    return Request(str(folder / "data"), STAGE, WHOLE, params)


def of(jobs: RayJobs, asked: Request) -> list[str]:
    """The states of the jobs that did this work, oldest first."""
    found = [j for j in jobs._client().list_jobs() if (j.submission_id or "").startswith(asked.work)]
    return [j.status.value for j in sorted(found, key=lambda j: j.start_time)]


def until(true: Callable[[], Any], seconds: float = 120) -> Any:
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.1)
    return found


def hold(folder: Path) -> Path:
    """A file that stops the stage after its first shard, while it is there."""
    path = folder / "hold" / STAGE
    path.parent.mkdir()
    path.touch()
    return path


def begun(folder: Path) -> bool:
    """Whether the stage is in the middle: one shard is done, the second has begun."""
    done = list((folder / "data" / STAGE).rglob(".progress/*/00000.json"))
    return bool(done) and any("-00001-" in call for call in toy_pipeline.calls(folder))


def driver(folder: Path) -> int:
    """The process of the job's own program."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"-c" in words and str(folder / "data").encode() in words and b"--heartbeat" in words:
            return int(path.parent.name)
    return 0


def waiting(folder: Path, jobs: RayJobs) -> subprocess.Popen[bytes]:
    """A program that runs the asset in Dagster and waits for the job."""
    code = f"from tests.engines import toy_job; toy_job.wait({str(folder)!r}, {jobs.address!r})"
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def test_a_job_makes_what_local_processes_make_and_leaves_no_messages(jobs: RayJobs, tmp_path: Path) -> None:
    asked = request(tmp_path)
    made = jobs.materialise(asked)
    assert made.fresh
    local = tmp_path / "local"
    toy_pipeline.lake(local)
    store = Store(str(local / "data"))
    stage.materialise(store, toy_pipeline.STAGES[STAGE], WHOLE, {}, shard_map=ProcessShardMap(1))
    assert toy_pipeline.manifests(tmp_path) == toy_pipeline.manifests(local)
    until(lambda: of(jobs, asked) == ["SUCCEEDED"])
    assert not list((tmp_path / "data" / FOLDER).rglob("*.json"))


def test_a_mistake_of_the_user_comes_back_as_it_is(jobs: RayJobs, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        jobs.materialise(request(tmp_path, fail="the encoder is of another shape"))
    assert str(caught.value) == f"{STAGE}: the encoder is of another shape"


def test_cancelling_the_run_cancels_the_job(jobs: RayJobs, tmp_path: Path) -> None:
    hold(tmp_path)
    run = waiting(tmp_path, jobs)
    until(lambda: begun(tmp_path))
    run.send_signal(signal.SIGINT)
    assert run.wait(60) != 0
    until(lambda: of(jobs, request(tmp_path)) == ["STOPPED"])
    until(lambda: not driver(tmp_path))
    assert not toy_pipeline.manifests(tmp_path)


def test_a_job_outlives_who_waits_for_it_and_the_next_run_finds_it(jobs: RayJobs, tmp_path: Path) -> None:
    held = hold(tmp_path)
    run = waiting(tmp_path, jobs)
    until(lambda: begun(tmp_path))
    run.kill()
    run.wait()
    assert of(jobs, request(tmp_path)) == ["RUNNING"]
    held.unlink()
    jobs.materialise(request(tmp_path))
    # The first job's, and a look by a second whether it was about the data as they are now.
    until(lambda: of(jobs, request(tmp_path)) == ["SUCCEEDED", "SUCCEEDED"])
    assert len(toy_pipeline.calls(tmp_path)) == toy_pipeline.SHARDS, "no shard was done twice"


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP])
def test_a_job_that_dies_or_falls_silent_is_noticed_and_submitted_again(
    jobs: RayJobs, tmp_path: Path, end: signal.Signals
) -> None:
    held = hold(tmp_path)
    impatient = dataclasses.replace(jobs, silence=15.0, resubmissions=1)
    watcher = subprocess.Popen(
        [sys.executable, "-c", f"import tests.engines.test_ray_job as t; t.end_driver({str(tmp_path)!r}, {int(end)})"]
    )
    made = impatient.materialise(request(tmp_path))
    assert watcher.wait(30) == 0
    assert made.manifest.stage == STAGE
    until(lambda: of(jobs, request(tmp_path))[1:] == ["SUCCEEDED"])
    assert of(jobs, request(tmp_path))[0] in ("FAILED", "STOPPED")
    assert not held.exists()
    again = [call for call in toy_pipeline.calls(tmp_path) if call.endswith("-1")]
    assert not any("-00000-" in call for call in again), "what was done is not done again"


def end_driver(folder: str, number: int) -> None:
    """Once the stage is in the middle, send its job's program a signal, and let the next one through."""
    place = Path(folder)
    until(lambda: begun(place))
    os.kill(until(lambda: driver(place)), number)
    (place / "hold" / STAGE).unlink()


def test_a_job_that_keeps_dying_is_an_error_that_says_what_its_log_says(
    jobs: RayJobs, cluster: Any, tmp_path: Path
) -> None:
    script = tmp_path / "broken"
    script.write_text("#!/bin/sh\necho no module named dinov2_core >&2\nexit 3\n")
    script.chmod(0o755)
    broken = dataclasses.replace(jobs, python=str(script), resubmissions=0)
    with pytest.raises(UserError, match=r"its job vanished 1 times.*ended with: no module named dinov2_core"):
        broken.materialise(request(tmp_path))


def test_an_address_where_nobody_answers_is_named() -> None:
    with pytest.raises(UserError, match=r"RAY_ADDRESS=http://127.0.0.1:9: no Ray dashboard answers"):
        RayJobs("http://127.0.0.1:9").materialise(Request("/nowhere", STAGE, WHOLE))


def test_requests_for_the_same_work_have_one_name_whichever_run_asks() -> None:
    one = Request("s3://bucket", "embeddings", "2026-11", {"batch": 4}, run_id="a")
    assert one.work == dataclasses.replace(one, run_id="b", verify=True).work
    assert one.work != dataclasses.replace(one, params={"batch": 8}).work
    assert one.work != dataclasses.replace(one, partition="2026-12").work


def test_a_heartbeat_counts_up_while_the_work_goes_on_and_not_after(tmp_path: Path) -> None:
    messages = Messages(Store(str(tmp_path)), "a-job")
    assert messages.beat() == -1
    with messages.beating(0.05):
        until(lambda: messages.beat() > 2, 10)
    last = messages.beat()
    time.sleep(0.3)
    assert messages.beat() == last


@pytest.mark.parametrize(
    ("address", "kind", "by_jobs"),
    [("", "ProcessShardMap", False), ("auto", "RayShardMap", False), ("http://head:8265", "ProcessShardMap", True)],
)
def test_one_setting_chooses_the_engine(
    monkeypatch: pytest.MonkeyPatch, address: str, kind: str, by_jobs: bool
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    engine = Engine.from_environment()
    assert (type(engine.shard_map()).__name__, engine.by_jobs) == (kind, by_jobs)
