"""Whoever starts a training: the same recipe, checkpoints and weights, and a lost process is not the end."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from dinov2_core.errors import UserError
from dinov2_core.launcher import InProcess, Launcher
from dinov2_core.train.preemption import Preempted
from pipelines.launchers.launcher import Torchrun
from pipelines.launchers.ray_train import RayTrain
from pipelines.pretrain import launcher_of, main
from tests.commands.test_pretrain import folder
from tests.engines import trainings
from tests.stages import together

pytestmark = pytest.mark.slow
Make = Callable[[], Launcher]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder(tmp_path_factory.mktemp("photos"), (40, 40))


@pytest.fixture(scope="module")
def torchrun(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run's folder of two processes that nothing happened to."""
    out = tmp_path_factory.mktemp("torchrun") / "out"
    made = Torchrun(2).run(trainings.train, trainings.request(data, out))
    assert made["process"] == ("0", "2")
    return out


@pytest.fixture(params=["torchrun", "ray"])
def two(request: pytest.FixtureRequest) -> Launcher:
    """Two processes; on Ray they are on two nodes."""
    if request.param == "torchrun":
        return Torchrun(2, restarts=1)
    return RayTrain(2, request.getfixturevalue("cluster").address, restarts=1)


def names(out: Path) -> set[str]:
    return {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file() and "index" not in path.parts}


def test_the_number_of_processes_changes_neither_recipe_nor_files_and_the_loss_by_rounding_only(
    torchrun: Path, data: Path, tmp_path: Path
) -> None:
    alone = InProcess().run(trainings.train, trainings.request(data, tmp_path / "out"))
    assert alone["process"] == ("0", "1")
    assert (tmp_path / "out" / "recipe.json").read_text() == (torchrun / "recipe.json").read_text()
    losses = [json.loads((out / "summary.json").read_text())["loss"] for out in (tmp_path / "out", torchrun)]
    assert losses[0] == pytest.approx(losses[1], abs=2e-3)


def test_processes_on_two_nodes_give_the_bits_and_files_of_torchrun(
    torchrun: Path, data: Path, cluster: Any, tmp_path: Path
) -> None:
    made = RayTrain(2, cluster.address).run(trainings.train, trainings.request(data, tmp_path / "out"))
    assert made["process"] == ("0", "2")
    assert names(tmp_path / "out") == names(torchrun)
    assert same_bits(tmp_path / "out", torchrun)


def test_a_stage_trains_on_two_nodes_as_by_torchrun(cluster: Any, tmp_path: Path) -> None:
    _, there, told = together.pretrained(tmp_path / "ray", RayTrain(2, cluster.address))
    _, here, also = together.pretrained(tmp_path / "torchrun", Torchrun(2))
    assert there.to_json() == here.to_json()
    assert [step for step, _ in told] == [step for step, _ in also]


@pytest.mark.cluster
def test_after_a_lost_process_the_training_goes_on_from_its_checkpoint_and_ends_alike(
    two: Launcher, torchrun: Path, data: Path, tmp_path: Path
) -> None:
    two.run(trainings.lose_one, trainings.request(data, tmp_path / "out"))
    assert (tmp_path / "lost").exists()
    assert len(list(tmp_path.glob("start-1-*"))) == 2, "both started again, once"
    assert same_bits(tmp_path / "out", torchrun)


def test_what_a_person_can_mend_comes_back_as_it_is(two: Launcher, data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        two.run(trainings.mistaken, trainings.request(data, tmp_path / "out"))
    assert str(caught.value) == "dinov2 pretrain: fewer images than one batch — give more images"


def test_a_training_that_was_asked_to_end_says_at_which_step(two: Launcher, data: Path, tmp_path: Path) -> None:
    with pytest.raises(Preempted) as caught:
        two.run(trainings.asked_to_end, trainings.request(data, tmp_path / "out"))
    assert caught.value.step == 6


def test_the_command_trains_in_as_many_processes_as_it_is_told(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
    small = ["model.dim=32", "model.depth=1", "model.heads=1", "dino_head.prototypes=16", "batch=4", "steps=2"]
    options = ["--recipe", "demo", "--data", str(data), "--out", str(tmp_path / "out"), "--workers", "0"]
    assert main(["--processes", "2", *options, *small]) == 0
    assert "steps: 2" in capsys.readouterr().out
    assert main(["--processes", "two", *options, *small]) == 1
    assert "'two' is no number of processes" in capsys.readouterr().err


def test_a_number_of_processes_or_on_a_cluster_a_range() -> None:
    assert launcher_of("1") == InProcess()
    assert launcher_of("4") == Torchrun(4)
    assert launcher_of("4:16", ray="auto", gpus=1.0) == RayTrain((4, 16), "auto", gpus=1.0)
    for wrong in ("0", "4:2", "x", "2:4"):
        with pytest.raises(UserError, match="is no number of processes"):
            launcher_of(wrong)


def same_bits(one: Path, other: Path) -> bool:
    first, second = (load_file(out / "teacher.safetensors") for out in (one, other))
    return set(first) == set(second) and all(np.array_equal(first[k], second[k]) for k in first)
