"""One MLflow run a training, continued after a kill; what is told arrives once, in order, whenever the tracker is."""

from __future__ import annotations

import fcntl
import json
import logging
import re
import threading
from pathlib import Path
from typing import Any

import pytest

from pipelines.resources import provenance
from pipelines.resources.mlflow_delivery import Delivery, ParentUnsentError
from pipelines.resources.mlflow_spool import Spool, read, waiting
from pipelines.resources.tracking import Tracking, _without_password, main
from tests.faults.processes import wait_for
from tests.pipelines.tracker import tracker

STAGE = "pretrained_checkpoint"
MANIFEST = "ab" * 32


@pytest.fixture
def tracking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tracking:
    monkeypatch.chdir(tmp_path)
    return tracker(tmp_path)


def begin(tracking: Tracking, stage: str = STAGE, **rest: Any) -> Any:
    inputs = {"curated_lvd/all": MANIFEST}
    return tracking.training(stage, "f1", {"lr": 0.1}, inputs, {"who": "test"}, root="s3://b/p", **rest)


def run_of(tracking: Tracking, stage: str = STAGE) -> Any:
    found = tracking.find_run(tracking.client(), stage, "f1")
    assert found is not None
    return found


def history(tracking: Tracking, key: str = "loss", stage: str = STAGE) -> list[tuple[int, float]]:
    client = tracking.client()
    return [(m.step, m.value) for m in client.get_metric_history(run_of(tracking, stage).info.run_id, key)]


def test_a_training_is_one_run_with_its_settings_inputs_code_and_metrics(tracking: Tracking) -> None:
    with begin(tracking) as tell:
        for step in range(3):
            tell(step, {"loss": 3.0 - step})
    run = run_of(tracking)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"lr": "0.1"}
    assert run.data.tags["manifest.curated_lvd/all"] == MANIFEST
    assert re.fullmatch(r"[0-9a-f]{40}\+?|unknown", run.data.tags["git.commit"])
    assert len(run.data.tags["lock.sha256"]) == 64
    (given,) = run.inputs.dataset_inputs
    assert given.dataset.name == "curated_lvd/all"
    assert given.dataset.digest == MANIFEST[:36]
    assert json.loads(given.dataset.source) == {
        "manifest": MANIFEST,
        "uri": "s3://b/p/curated_lvd/all/manifest.json",
    }
    assert {tag.key: tag.value for tag in given.tags}["mlflow.data.context"] == "training"
    assert history(tracking) == [(0, 3.0), (1, 2.0), (2, 1.0)]
    assert not list(tracking.spool_folder.iterdir()), "what is sent is not kept"


def test_a_killed_training_goes_on_in_its_run_and_repeats_no_step(tracking: Tracking) -> None:
    with pytest.raises(KeyboardInterrupt), begin(tracking) as tell:  # noqa: PT012
        for step in range(4):
            tell(step, {"loss": 9.0 - step})
        raise KeyboardInterrupt
    assert run_of(tracking).info.status == "KILLED"
    with begin(tracking) as tell:
        for step in range(2, 6):  # its last checkpoint was after step 1
            tell(step, {"loss": 9.0 - step})
    client = tracking.client()
    assert len(client.search_runs([tracking.experiment_id(client)])) == 1
    assert run_of(tracking).info.status == "FINISHED"
    assert history(tracking) == [(s, 9.0 - s) for s in range(6)]


def test_a_training_that_fails_says_so(tracking: Tracking) -> None:
    with pytest.raises(ValueError, match="diverged"), begin(tracking):
        raise ValueError("diverged")
    assert run_of(tracking).info.status == "FAILED"


def test_high_resolution_and_students_are_runs_below(tracking: Tracking, tmp_path: Path) -> None:
    recipe = {"optim": {"base_lr": 0.1}, "steps": 5}
    with begin(tracking) as tell:
        with tell.begin("", recipe, tmp_path) as own:
            own(0, {"loss": 1.0})
        with tell.begin("high_resolution", {"steps": 7}, tmp_path) as large:
            large(0, {"loss": 2.0})
    with begin(tracking, "distilled_checkpoints", parent=(STAGE, "f1")) as tell:
        for name in ("vit_small", "vit_base"):
            with tell.begin(name, {}, tmp_path) as student:
                student(0, {"loss": 3.0})
    whole, large = run_of(tracking), run_of(tracking, f"{STAGE}.high_resolution")
    distilled = run_of(tracking, "distilled_checkpoints")
    assert history(tracking) == [(0, 1.0)]
    assert whole.data.params["recipe.optim.base_lr"] == "0.1"
    assert large.data.params == {"recipe.steps": "7"}
    assert history(tracking, stage=f"{STAGE}.high_resolution") == [(0, 2.0)], "step 0 of another training"
    assert large.data.tags["mlflow.parentRunId"] == whole.info.run_id
    assert distilled.data.tags["mlflow.parentRunId"] == whole.info.run_id
    for name in ("vit_small", "vit_base"):
        student = run_of(tracking, f"distilled_checkpoints.{name}")
        assert student.data.tags["mlflow.parentRunId"] == distilled.info.run_id
        assert student.info.status == "FINISHED"
        assert student.info.run_name == name
    client = tracking.client()
    (folder,) = [a.path for a in client.list_artifacts(whole.info.run_id)]
    assert folder == "recipe.json"


def test_the_machine_is_measured_while_it_trains(tracking: Tracking) -> None:
    measured = tracking.model_copy(update={"system_every": 0.0})
    with begin(measured) as tell:
        tell(0, {"loss": 1.0})
        threading.Event().wait(1.2)
    found = [step for step, _ in history(tracking, "system/cpu_utilization_percentage")]
    assert found == sorted(set(found))
    assert len(found) >= 2, "seconds since the run began"
    assert history(tracking, "system/system_memory_usage_percentage")[0][1] > 0


def test_checkpoints_are_artifacts_when_asked(tracking: Tracking, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"

    def save(step: int) -> None:
        path = folder / f"step-{step:08d}"
        path.mkdir(parents=True)
        (path / "note.json").write_text(str(step))

    asked = tracking.model_copy(update={"checkpoints": True})
    for one, name in ((tracking, "distilled_checkpoints"), (asked, STAGE)):
        with begin(one, name) as tell, tell.begin("", {}, folder):
            save(10 if one is asked else 5)
    client = tracking.client()
    paths = {
        name: [a.path for a in client.list_artifacts(run_of(tracking, name).info.run_id)]
        for name in (STAGE, "distilled_checkpoints")
    }
    assert "checkpoints" in paths[STAGE]
    assert "checkpoints" not in paths["distilled_checkpoints"]
    found = [a.path for a in client.list_artifacts(run_of(tracking).info.run_id, "checkpoints")]
    assert "checkpoints/step-00000010" in found
    assert not list(tracking.spool_folder.iterdir())


class Gate:
    """A client that can be cut off, and that can do what it is asked and lose the answer."""

    def __init__(self, client: Any) -> None:
        self.client, self.down, self.lose = client, False, 0

    def __getattr__(self, name: str) -> Any:
        real = getattr(self.client, name)
        if not callable(real):
            return real

        def call(*args: Any, **rest: Any) -> Any:
            if self.down:
                raise ConnectionError("server gone")
            found = real(*args, **rest)
            if name == "log_batch" and self.lose:
                self.lose -= 1
                raise ConnectionError("answer lost")
            return found

        return call


@pytest.fixture
def gate(tracking: Tracking, monkeypatch: pytest.MonkeyPatch) -> Gate:
    made = Gate(tracking.client())
    monkeypatch.setattr(Tracking, "client", lambda self: made)
    return made


def test_a_server_that_dies_and_returns_has_everything_once_and_in_order(tracking: Tracking, gate: Gate) -> None:
    with begin(tracking) as tell:
        tell(0, {"loss": 9.0})
        threading.Event().wait(0.3)
        gate.down = True
        for step in range(1, 50):
            tell(step, {"loss": 9.0 - step})
        threading.Event().wait(0.3)
        gate.down, gate.lose = False, 2
        tell(50, {"loss": 0.0})
    assert history(tracking) == [*((s, 9.0 - s) for s in range(50)), (50, 0.0)]
    assert run_of(tracking).info.status == "FINISHED"


def test_a_training_without_a_server_is_sent_later_with_its_own_times(
    tracking: Tracking, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    gate.down = True
    with caplog.at_level(logging.WARNING), begin(tracking.model_copy(update={"patience": 0.2})) as tell:
        tell(0, {"loss": 2.0})
        with tell.begin("high_resolution", {"steps": 1}, Path("none")) as large:
            large(0, {"loss": 1.0})
    assert "is sent with the next training" in caplog.text
    assert [one.stage for one in waiting(tracking.spool_folder)] == [STAGE, f"{STAGE}.high_resolution"]
    gate.down = False
    begun = next(r for r, _ in read(Spool(tracking.spool_folder, STAGE, "f1").path))["at"]
    with begin(tracking, "distilled_checkpoints") as tell:
        tell(0, {"loss": 7.0})
    # The first training's own thread may be in the middle of one of them, and is left to it.
    wait_for(lambda: not list(tracking.spool_folder.iterdir()), "all is sent", 60)
    assert history(tracking) == [(0, 2.0)]
    assert history(tracking, stage=f"{STAGE}.high_resolution") == [(0, 1.0)]
    run = run_of(tracking)
    assert run.info.start_time == begun
    assert run_of(tracking, f"{STAGE}.high_resolution").data.tags["mlflow.parentRunId"] == run.info.run_id


def test_who_asks_for_the_run_of_a_training_gets_it_though_the_tracker_was_gone(tracking: Tracking, gate: Gate) -> None:
    gate.down = True
    with begin(tracking.model_copy(update={"patience": 0.1})) as tell:
        tell(0, {"loss": 1.0})
    gate.down = False
    assert history(tracking) == [(0, 1.0)]


def test_one_command_sends_what_waits(
    tracking: Tracking, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = "sqlite:////proc/none/mlflow.db"
    with begin(Tracking(uri=nowhere, spool=tracking.spool, every=0.05, patience=0.1)) as tell:
        tell(0, {"loss": 1.0})
    monkeypatch.setenv("DINOV2_SPOOL", tracking.spool)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", nowhere)
    assert main() == 1
    assert "the tracker does not answer" in capsys.readouterr().err
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking.uri)
    assert main() == 0
    assert "1 trainings had something to send; 0 still have" in capsys.readouterr().out
    assert history(tracking) == [(0, 1.0)]


def test_a_tracker_that_cannot_be_reached_costs_a_training_nothing(tmp_path: Path) -> None:
    nowhere = Tracking(uri="sqlite:////proc/none/mlflow.db", spool=str(tmp_path), every=0.05, patience=0.1)
    with begin(nowhere) as tell:
        tell(0, {"loss": 1.0})
    assert len(waiting(tmp_path)) == 1


def test_a_full_disk_does_not_stop_a_training(tracking: Tracking, caplog: pytest.LogCaptureFixture) -> None:
    full = tracking.model_copy(update={"spool": "/proc/none/spool", "patience": 0.2})
    with caplog.at_level(logging.WARNING), begin(full) as tell:
        tell(0, {"loss": 1.0})
        tell(1, {"loss": 1.0})
    assert caplog.text.count("cannot be kept") == 1


def test_a_line_cut_by_a_kill_is_passed_over(tmp_path: Path) -> None:
    spool = Spool(tmp_path, STAGE, "f1")
    write = spool.writer()
    write("metrics", step=0, values={"loss": 1.0})
    write.close()
    with open(spool.path, "ab") as file:
        file.write(b'{"kind":"metrics","st')
    assert len(list(read(spool.path))) == 1, "as yet it may be still being written"
    again = spool.writer()
    again("metrics", step=1, values={"loss": 1.0})
    again.close()
    assert [record["step"] for record, _ in read(spool.path)] == [0, 1]


def test_a_value_that_the_tracker_refuses_holds_nothing_up(tracking: Tracking) -> None:
    with begin(tracking) as tell:
        tell(0, {"loss": 1.0, "a" * 300: 2.0})
        tell(1, {"loss": 0.5, "odd name (%)": 3.0})
    assert history(tracking) == [(0, 1.0), (1, 0.5)]
    assert history(tracking, "odd name ___") == [(1, 3.0)]


def test_sending_again_from_the_start_adds_nothing(tracking: Tracking, gate: Gate) -> None:
    spool = Spool(tracking.spool_folder, STAGE, "f1")
    write = spool.writer()
    write("begin", name="x", stage=STAGE, fingerprint="f1", parent=None, params={"p": "1"}, inputs={}, tags={})
    for step in range(3):
        write("metrics", step=step, values={"loss": float(step)})
    for _ in range(2):
        Delivery(spool, gate, lambda: tracking.experiment_id(gate)).send()
        spool.path.with_suffix(".sent").unlink()
    write.close()
    assert history(tracking) == [(0, 0.0), (1, 1.0), (2, 2.0)]
    assert len(gate.search_runs([tracking.experiment_id(gate)])) == 1


def test_a_password_in_an_address_is_never_shown() -> None:
    assert _without_password("postgresql://user:secret@host/db") == "postgresql://…@host/db"
    assert _without_password("sqlite:///x.db") == "sqlite:///x.db"


def test_a_changed_checkout_is_marked_by_names_and_a_hash_but_not_by_its_text(tmp_path: Path) -> None:
    import subprocess

    def git(*arguments: str) -> None:
        names = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *names, *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init")
    (tmp_path / "x.txt").write_text("one")
    (tmp_path / "requirements.lock").write_text("torch==1")
    git("add", ".")
    git("commit", "-m", "first")
    clean = provenance.tags(tmp_path)
    assert clean["git.dirty"] == "false"
    assert "git.changed" not in clean
    (tmp_path / "x.txt").write_text("password: hunter2")
    dirty = provenance.tags(tmp_path)
    assert dirty["git.changed"] == "x.txt"
    assert dirty["git.commit"] == clean["git.commit"] + "+"
    assert "hunter2" not in str(dirty)
    assert dirty["lock.sha256"] == clean["lock.sha256"]


def test_without_a_checkout_the_environment_names_the_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance.commit(tmp_path) == "unknown"
    monkeypatch.setenv(provenance.COMMIT, "abc")
    assert provenance.commit(tmp_path) == "abc"


def test_a_part_waits_for_the_run_that_another_process_is_about_to_begin(tracking: Tracking, gate: Gate) -> None:
    gate.down = True
    with begin(tracking.model_copy(update={"patience": 0.2})) as tell, tell.begin("students", {}, Path("none")) as part:
        part(0, {"loss": 1.0})
    for thread in threading.enumerate():
        if thread.name == "tracking":
            thread.join()
    gate.down = False
    whole, part_of_it = waiting(tracking.spool_folder)
    with open(whole.path.with_suffix(".sent"), "a+b") as sent:
        fcntl.flock(sent, fcntl.LOCK_EX)
        with pytest.raises(ParentUnsentError, match="students is part of has not been begun"):
            tracking.deliver()
    # Whatever order they come in.
    assert tracking.deliver([part_of_it, whole]) == 2
    assert run_of(tracking, f"{STAGE}.students").data.tags["mlflow.parentRunId"] == run_of(tracking).info.run_id
    assert not waiting(tracking.spool_folder)
