"""The loop: it learns, resumes to the same bits after SIGKILL, and survives losses that are not finite."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dinov2_core.errors import DamagedDataError, UserError
from dinov2_core.train import checkpoint, recipes
from dinov2_core.train.batches import PoolBatches
from dinov2_core.train.objective import Batch, Objective
from dinov2_core.train.recipe import Recipe, override
from dinov2_core.train.trainer import train


def tiny(**changes: object) -> Recipe:
    base = {
        "model.dim": 32,
        "model.depth": 2,
        "model.heads": 2,
        "dino_head.prototypes": 32,
        "dino_head.hidden": 32,
        "dino_head.bottleneck": 16,
        "steps": 8,
        "batch": 8,
        "drop_path": 0.2,
        "optim.warmup": 2,
        "optim.freeze_last_layer": 1,
    }
    return override(recipes.demo(), {**base, **changes})


def pool() -> torch.Tensor:
    return torch.randint(0, 256, (24, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


SCRIPT = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
from tests.train.test_trainer import tiny, pool
from dinov2_core.train.batches import PoolBatches
from dinov2_core.train.trainer import train
recipe = tiny()
batches = PoolBatches(pool(), recipe)
def killing(step):
    if step == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return batches(step)
train(recipe, killing, folder=Path(sys.argv[2]), checkpoint_every=2, log_every=1)
"""


def test_a_run_that_was_killed_resumes_to_the_same_bits(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        recipe = tiny()
        straight = train(recipe, PoolBatches(pool(), recipe), log_every=1)
        root = str(Path(__file__).parents[2])
        killed = subprocess.run(
            [sys.executable, "-c", SCRIPT, root, str(tmp_path)], cwd=root, capture_output=True, check=False
        )
        assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
        newest = checkpoint.latest(tmp_path)
        assert newest is not None
        assert newest.name == "step-00000004.safetensors"
        resumed = train(recipe, PoolBatches(pool(), recipe), folder=tmp_path, checkpoint_every=2, log_every=1)
    finally:
        torch.set_num_threads(threads)
    assert same(straight.tensors(), resumed.tensors())
    assert straight.history == resumed.history


def test_the_file_of_equal_states_is_equal(tmp_path: Path) -> None:
    recipe = tiny(steps=2)
    for name in ("a", "b"):
        train(recipe, PoolBatches(pool(), recipe), folder=tmp_path / name)
    one, two = (checkpoint.latest(tmp_path / name) for name in ("a", "b"))
    assert one is not None
    assert two is not None
    assert one.read_bytes() == two.read_bytes()


def test_a_finished_run_trains_no_further(tmp_path: Path) -> None:
    recipe = tiny(steps=2)
    first = train(recipe, PoolBatches(pool(), recipe), folder=tmp_path)

    def never(step: int) -> Batch:
        raise AssertionError("trained again")

    again = train(recipe, never, folder=tmp_path)
    assert same(first.tensors(), again.tensors())


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path: Path) -> None:
    train(tiny(steps=2), PoolBatches(pool(), tiny(steps=2)), folder=tmp_path)
    with pytest.raises(UserError, match="of another recipe"):
        train(tiny(steps=3), PoolBatches(pool(), tiny()), folder=tmp_path)


def test_a_damaged_checkpoint_says_so(tmp_path: Path) -> None:
    checkpoint.step_path(tmp_path, 2).write_bytes(b"half a fi")
    with pytest.raises(DamagedDataError, match="not a readable checkpoint"):
        train(tiny(), PoolBatches(pool(), tiny()), folder=tmp_path)


def test_half_written_checkpoints_are_not_seen(tmp_path: Path) -> None:
    (tmp_path / ".tmp-1-step-00000009.safetensors").write_bytes(b"half")
    assert checkpoint.latest(tmp_path) is None


def poisoned(steps: set[int]) -> tuple[Recipe, object]:
    recipe = tiny()
    batches = PoolBatches(pool(), recipe)

    def make(step: int) -> Batch:
        batch = batches(step)
        if step in steps:
            batch.global_crops[0, 0, 0, 0] = float("nan")
        return batch

    return recipe, make


def test_three_bad_steps_in_a_row_are_skipped() -> None:
    recipe, batches = poisoned({2, 3, 4, 6})
    result = train(recipe, batches, log_every=1)  # type: ignore[arg-type]
    assert {s for s, _, _ in result.history} == {0, 1, 5, 7}
    assert all(torch.isfinite(p).all() for p in result.objective.state_dict().values())


def test_four_bad_steps_in_a_row_stop_the_run_and_name_the_images() -> None:
    recipe, batches = poisoned({2, 3, 4, 5})
    with pytest.raises(UserError, match=r"4 steps in a row, the last on images \[\d+"):
        train(recipe, batches)  # type: ignore[arg-type]


def test_a_bad_step_changes_nothing() -> None:
    recipe, batches = poisoned({0, 1, 2})
    recipe = override(recipe, {"steps": 3, "loss.targets": "centering"})
    torch.manual_seed(recipe.seed)
    before = Objective.of(recipe).state_dict()
    after = train(recipe, batches).objective.state_dict()  # type: ignore[arg-type]
    assert same(dict(before), dict(after))


def test_the_average_follows_the_student_and_takes_no_gradient() -> None:
    recipe = tiny(**{"teacher.momentum": 0.5, "teacher.final_momentum": 0.5})
    objective = train(recipe, PoolBatches(pool(), recipe)).objective
    assert all(not p.requires_grad and p.grad is None for p in objective.average.parameters())
    moved = [
        float((a - s).norm() / s.norm())
        for a, s in zip(objective.average.parameters(), objective.student.parameters(), strict=True)
        if s.norm() > 0
    ]
    assert 0 < max(moved) < 1


def test_the_loss_falls() -> None:
    recipe = tiny(steps=60, drop_path=0.0, **{"optim.base_lr": 0.02, "optim.warmup": 5})
    history = train(recipe, PoolBatches(pool(), recipe), log_every=1).history
    totals = [value for _, name, value in history if name == "total"]
    assert sum(totals[-10:]) < 0.95 * sum(totals[:10])


def test_bfloat16_keeps_float32_weights_and_follows_float32() -> None:
    wide, narrow = tiny(), tiny(precision="bfloat16")
    one = train(wide, PoolBatches(pool(), wide), log_every=1)
    two = train(narrow, PoolBatches(pool(), narrow), log_every=1)
    assert {p.dtype for p in two.objective.parameters()} == {torch.float32}
    totals = [[v for _, n, v in r.history if n == "total"] for r in (one, two)]
    assert totals[1] == pytest.approx(totals[0], rel=0.02)


def test_distillation_leaves_the_teacher_alone_and_does_not_mask() -> None:
    recipe = tiny(drop_path=0.0)
    taught = train(recipe, PoolBatches(pool(), recipe)).objective.average
    before = {k: v.clone() for k, v in taught.state_dict().items()}
    student = override(recipe, {"model.dim": 16, "model.heads": 1})
    result = train(student, PoolBatches(pool(), student), teacher=taught)
    assert same(before, dict(taught.state_dict()))
    mask_token = result.objective.student["backbone"].mask_token
    assert float(mask_token.detach().abs().max()) == 0
    assert not any(k.startswith("teacher") for k in result.tensors())
