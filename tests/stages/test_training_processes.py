"""A stage's training shared by processes: recipe, files and counts are those of one, losses too but for rounding."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, ClassVar

import pytest

from dinov2_core.errors import UserError
from dinov2_core.launcher import InProcess
from dinov2_core.stages import training_processes
from pipelines.launchers.launcher import Torchrun
from pipelines.resources.engine import Engine
from tests.stages import learner, together

LOGGED = [0, 2, 4, 5]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return together.pretrained(tmp_path_factory.mktemp("alone"), InProcess())


class Other:
    """One more process that trains, as far as the stage knows; it is this one."""

    one_machine: ClassVar[bool] = True

    def run(self, function: Any, argument: Any) -> Any:
        return function(argument)


def test_a_launcher_changes_nothing_of_what_one_process_makes(alone: Any, tmp_path: Path) -> None:
    _, wanted, told = alone
    store, made, also = together.pretrained(tmp_path, Other())
    assert made.to_json() == wanted.to_json()
    assert [step for step, _ in also] == [step for step, _ in told] == LOGGED
    assert [set(metrics) for _, metrics in also] == [set(metrics) for _, metrics in told]
    assert not store.find("pretrained_checkpoint/all/.progress")


@pytest.mark.slow
def test_two_processes_make_the_same_files_and_losses_and_teach_a_student(alone: Any, tmp_path: Path) -> None:
    before, wanted, _ = alone
    store, made, told = together.pretrained(tmp_path, Torchrun(2))
    assert together.recipe(store, made) == together.recipe(before, wanted)
    assert [f.path for f in made.files] == [f.path for f in wanted.files]
    exact = ("images", "undecodable", "steps", "batch", "parameters")
    assert {k: made.counts[k] for k in exact} == {k: wanted.counts[k] for k in exact}
    assert made.counts["undecodable"] == 1
    assert together.losses(store, made) == pytest.approx(together.losses(before, wanted), abs=2e-3)
    assert [step for step, _ in told] == LOGGED
    student = learner.make(store, "distilled_checkpoints", learner.DISTILLING, launcher=Torchrun(2))
    assert student.counts["steps"] == 4


def test_steps_are_told_once_whatever_is_looked_at_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_processes, "_LOOK_EVERY", 0.01)

    class TellsTwice(Other):
        """Goes on from a checkpoint: steps after it are logged again."""

        def run(self, function: Any, argument: Any) -> Any:
            for step in (0, 2, 4, 2, 4):
                argument.store.write_bytes(f"{argument.steps}/{step:08d}.json", b'{"total": 1.0}')
            return super().run(function, argument)

    _, _, told = together.pretrained(tmp_path, TellsTwice())
    assert [step for step, _ in told] == LOGGED


def test_a_step_that_was_logged_but_not_told_before_a_kill_is_told_by_the_next_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(Exception):
        """In the place of a signal that ends the stage."""

    class Dies(Other):
        def run(self, function: Any, argument: Any) -> Any:
            super().run(function, argument)
            raise KilledError

    # Nothing is looked at any more.
    with monkeypatch.context() as patched:
        patched.setattr(training_processes, "_told", lambda work, tracker: contextlib.nullcontext())
        with pytest.raises(KilledError):
            together.pretrained(tmp_path, Dies())
    _, _, told = together.pretrained(tmp_path, Other())
    assert [step for step, _ in told] == LOGGED


def test_several_machines_need_a_folder_that_they_share(tmp_path: Path) -> None:
    class Far(Other):
        one_machine: ClassVar[bool] = False

    class Bucket:
        local = False

    class Run:
        store, launcher, where = Bucket(), Far(), "pretrained_checkpoint"

    with pytest.raises(UserError, match="the data root is no folder"):
        training_processes.train_together(Run(), None, None, None)  # type: ignore[arg-type]


def test_one_setting_chooses_who_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.launchers.ray_train import RayTrain

    chosen = {
        ("", ""): InProcess(),
        ("1", "auto"): InProcess(),
        ("4", ""): Torchrun(4),
        ("4", "auto"): RayTrain(4, "auto", gpus=1.0, cpus=8.0),
        ("2:4", "auto"): RayTrain((2, 4), "auto", gpus=1.0, cpus=8.0),
    }
    monkeypatch.setenv("DINOV2_TRAIN_GPUS", "1")
    monkeypatch.setenv("DINOV2_TRAIN_CPUS", "8")
    for (processes, address), launcher in chosen.items():
        monkeypatch.setenv("DINOV2_TRAIN_PROCESSES", processes or "1")
        monkeypatch.setenv("RAY_ADDRESS", address)
        assert Engine.from_environment().launcher() == launcher
    monkeypatch.setenv("DINOV2_TRAIN_PROCESSES", "many")
    with pytest.raises(UserError, match="DINOV2_TRAIN_PROCESSES: 'many' is no number of processes"):
        Engine.from_environment().launcher()
