"""Several processes equal one: losses and weights on the same global batch, and checkpoints across their number.

Starting processes costs more than what they do here, so each number of them is started once and does everything.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor

from dinov2_core.train import checkpoint
from dinov2_core.train.batches import PoolBatches
from dinov2_core.train.launch import joined
from dinov2_core.train.objective import Batch
from dinov2_core.train.preemption import Preempted
from dinov2_core.train.recipe import EfficiencyConfig, Recipe, override
from dinov2_core.train.trainer import Trained, train
from tests.train.test_trainer import pool, tiny

pytestmark = pytest.mark.slow

LOSSES = ("total", "koleo", "ibot", "dino_local", "dino_global")


def recipe(**changes: object) -> Recipe:
    fixed = {"drop_path": 0.0, "optim.freeze_last_layer": 0, "loss.koleo": 1.0}
    return override(tiny(steps=3, precision="float32"), fixed | changes)


CASES: dict[str, tuple[Recipe, EfficiencyConfig]] = {
    "plain": (recipe(), EfficiencyConfig()),
    "centering": (recipe(**{"loss.targets": "centering", "ibot_head.prototypes": 24}), EfficiencyConfig()),
    "groups": (recipe(**{"loss.koleo_group": 4}), EfficiencyConfig()),
    "accumulated": (recipe(), EfficiencyConfig(accumulate=2)),
    "checkpointed": (recipe(), EfficiencyConfig(checkpoint_activations=True)),
    "bfloat16": (recipe(precision="bfloat16"), EfficiencyConfig(reduce="float32")),
    "float16": (recipe(precision="float16", steps=16), EfficiencyConfig()),
    "bad": (recipe(), EfficiencyConfig()),
}
"""What is trained alike by 1, 2 and 4 processes; those of ``SMALL`` need the two only."""
SMALL = ("centering", "groups", "accumulated", "checkpointed", "bfloat16", "float16", "bad")


def poisoned(batches: PoolBatches, rank: int) -> Callable[[int], Batch]:
    """One process alone sees a value that is not finite, at one step."""

    def make(step: int) -> Batch:
        batch = batches(step)
        if step == 1 and rank == 0:
            batch.global_crops[0, 0, 0, 0] = float("nan")
        return batch

    return make


def trained(name: str, rank: int = 0, world: int = 1, folder: Path | None = None) -> Trained:
    made, efficiency = CASES[name]
    batches: Callable[[int], Batch] = PoolBatches(pool(), made, rank=rank, world=world)
    if name == "bad":
        batches = poisoned(batches, rank)  # type: ignore[arg-type]
    return train(made, batches, efficiency=efficiency, folder=folder, log_every=1)


def stopped(rank: int, world: int, folder: Path) -> None:
    """Train into ``folder`` until the last process alone is asked to end, after the first step."""
    batches = PoolBatches(pool(), recipe(), rank=rank, world=world)

    def asking(step: int) -> Batch:
        if rank == world - 1:
            os.kill(os.getpid(), 15)
        return batches(step)

    with pytest.raises(Preempted, match="after step 1"):
        train(recipe(), asking, folder=folder, log_every=1)


def _process(rank: int, world: int, port: int, folder: Path) -> None:
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(rank)
    )
    torch.set_num_threads(1)
    with joined():
        results = {name: trained(name, rank, world) for name in CASES if world == 2 or name not in SMALL}
        if world == 2:
            for name in ("for-1", "for-4"):
                stopped(rank, world, folder / name)
        else:
            results["resumed"] = trained("plain", rank, world, folder / f"for-{world}")
        for name, result in results.items():
            tensors = result.tensors()
            if rank == 0:
                note = {"history": result.history, "skipped": result.skipped, "scale": result.scale.value}
                checkpoint.save(folder / f"{name}-{world}", tensors, note)


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file for each case and number of processes, and checkpoints of two processes."""
    folder = tmp_path_factory.mktemp("parallel")
    # Imported once for all of them.
    mp.get_context("forkserver").set_forkserver_preload(
        ["torch", "torchvision.transforms.v2", "dinov2_core.train.trainer"]
    )
    for world in (2, 4):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        mp.start_processes(_process, args=(world, port, folder), nprocs=world, start_method="forkserver")  # type: ignore[no-untyped-call]
    return folder


def weights(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Student and average, apart from the key bias: its gradient is rounding, which AdamW turns into a step."""
    found = {k: v for k, v in tensors.items() if k.startswith(("student.", "average."))}
    return {k: v for k, v in found.items() if not k.endswith("attn.qkv.bias")}


def losses(history: list[tuple[int, str, float]], last: int = 99) -> list[float]:
    return [value for step, name, value in history if name in LOSSES and step <= last]


def norms(history: list[tuple[int, str, float]]) -> dict[str, float]:
    """The gradients' norms at the first step."""
    return {name: value for step, name, value in history if name.startswith("grad_norm") and step == 0}


def assert_same(got: dict[str, Tensor], history: list, one: Trained, tolerance: float) -> None:  # type: ignore[type-arg]
    want = one.tensors()
    assert got.keys() == want.keys()
    for key, value in weights(want).items():
        assert float((got[key] - value).norm() / value.norm().clamp(min=1e-3)) < tolerance, key
    assert losses(history) == pytest.approx(losses(one.history), rel=tolerance)


@pytest.mark.parametrize(
    ("name", "world", "tolerance"),
    [
        ("plain", 2, 1e-5),
        ("plain", 4, 1e-5),
        ("centering", 2, 1e-5),
        ("groups", 2, 1e-5),
        ("accumulated", 2, 1e-5),
        ("checkpointed", 2, 1e-5),
    ],
)
def test_processes_that_share_a_batch_equal_one(states: Path, name: str, world: int, tolerance: float) -> None:
    tensors, note = checkpoint.load(states / f"{name}-{world}")
    assert_same(tensors, note["history"], trained(name), tolerance)


def test_bfloat16_follows_one_process(states: Path) -> None:
    tensors, note = checkpoint.load(states / "bfloat16-2")
    one = trained("bfloat16")
    want = weights(one.tensors())
    # Exact while the weights are equal; later as a whole: where a gradient is rounding, AdamW makes a step of it.
    assert losses(note["history"], last=0) == pytest.approx(losses(one.history, last=0), rel=5e-3)
    assert norms(note["history"]) == pytest.approx(norms(one.history), rel=2e-2)
    got, expected = (torch.cat([x[k].flatten() for k in want]) for x in (tensors, want))
    assert float((got - expected).norm() / expected.norm()) < 2e-2
    assert losses(note["history"]) == pytest.approx(losses(one.history), rel=0.1)


def test_float16_lowers_its_scale_alike_and_follows_one_process(states: Path) -> None:
    _, note = checkpoint.load(states / "float16-2")
    one = trained("float16")
    assert note["scale"] <= 2**15, "gradients of both overflow at the first scale"
    assert note["scale"] == one.scale.value
    assert note["skipped"] == one.skipped
    assert losses(note["history"]) == pytest.approx(losses(one.history), rel=2e-2)


def test_all_skip_a_step_that_is_bad_in_one_of_them(states: Path) -> None:
    tensors, note = checkpoint.load(states / "bad-2")
    assert note["skipped"] == 1
    assert sorted({step for step, _, _ in note["history"]}) == [0, 2]
    assert_same(tensors, note["history"], trained("bad"), 1e-5)


@pytest.mark.parametrize("world", [1, 4])
def test_a_checkpoint_of_two_processes_resumes_on(world: int, states: Path) -> None:
    # Only the last of the two was asked to end; both saved.
    if world == 1:
        assert checkpoint.latest(states / "for-1") == states / "for-1" / "step-00000001"
        resumed = trained("plain", folder=states / "for-1")
        tensors, history = resumed.tensors(), resumed.history
    else:
        tensors, note = checkpoint.load(states / f"resumed-{world}")
        history = note["history"]
    straight = trained("plain")
    assert len(history) == len(straight.history)
    assert_same(tensors, history, straight, 1e-5)
