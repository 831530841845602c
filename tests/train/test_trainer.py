"""The loop: it learns, resumes to the same bits after SIGKILL, and survives losses that are not finite."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dinov2_core.errors import UserError
from dinov2_core.train import checkpoint, flops, metrics, recipes, schedules
from dinov2_core.train.batches import PoolBatches
from dinov2_core.train.objective import Batch, Objective
from dinov2_core.train.preemption import Preempted
from dinov2_core.train.recipe import EfficiencyConfig, Recipe, override
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
import os, signal, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
from tests.train.test_trainer import tiny, pool
from dinov2_core.train.batches import PoolBatches
from dinov2_core.train.trainer import train
recipe = tiny()
batches = PoolBatches(pool(), recipe)
folder = Path(sys.argv[2])
def killing(step):
    if step == 6:
        # The training stands still: the checkpoint gets its name all the same.
        until = time.monotonic() + 60
        while not (folder / "step-00000006").exists() and time.monotonic() < until:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
    return batches(step)
train(recipe, killing, folder=folder, checkpoint_every=2, log_every=1)
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
        assert checkpoint.latest(tmp_path) == tmp_path / "step-00000006"
        resumed = train(recipe, PoolBatches(pool(), recipe), folder=tmp_path, checkpoint_every=2, log_every=1)
    finally:
        torch.set_num_threads(threads)
    assert same(straight.tensors(), resumed.tensors())
    assert straight.history == resumed.history


def test_the_file_of_equal_states_is_equal(tmp_path: Path) -> None:
    recipe = tiny(steps=2)
    for name in ("a", "b"):
        checkpoint.save(tmp_path / name, train(recipe, PoolBatches(pool(), recipe)).tensors(), {"step": 2})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_run_that_is_asked_to_end_saves_and_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    recipe = tiny()
    batches = PoolBatches(pool(), recipe)

    def asking(step: int) -> Batch:
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return batches(step)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Preempted, match="after step 4"):
        train(recipe, asking, folder=tmp_path)
    assert signal.getsignal(signal.SIGTERM) == before
    assert same(train(recipe, batches).tensors(), train(recipe, batches, folder=tmp_path).tensors())


def test_a_finished_run_trains_no_further(tmp_path: Path) -> None:
    recipe = tiny(steps=2)
    first = train(recipe, PoolBatches(pool(), recipe), folder=tmp_path)

    def never(step: int) -> Batch:
        raise AssertionError("trained again")

    again = train(recipe, never, folder=tmp_path)
    assert same(first.tensors(), again.tensors())


@pytest.mark.parametrize("targets", ["sinkhorn", "centering"])
def test_a_batch_in_parts_has_the_gradients_of_the_whole(targets: str) -> None:
    recipe = tiny(precision="float32", drop_path=0.0, **{"loss.targets": targets, "loss.koleo": 1.0})
    batch = PoolBatches(pool(), recipe)(0)
    found = []
    for parts in (1, 2, 4):
        torch.manual_seed(0)
        objective = Objective.of(recipe).train()
        terms = objective.backward(batch, 0.05, parts=parts).terms
        gradients = torch.cat([p.grad.flatten() for p in objective.student.parameters() if p.grad is not None])
        found.append((gradients, terms, objective.dino_center))
    for gradients, terms, center in found[1:]:
        assert float((gradients - found[0][0]).norm() / found[0][0].norm()) < 1e-5
        assert {k: float(v) for k, v in terms.items()} == pytest.approx(
            {k: float(v) for k, v in found[0][1].items()}, rel=1e-5
        )
        assert torch.allclose(center, found[0][2], atol=1e-6)


def test_float16_finds_its_scale_and_follows_float32() -> None:
    recipe = tiny(precision="float16", drop_path=0.0, steps=24)
    result = train(recipe, PoolBatches(pool(), recipe), log_every=1)
    good = sorted({step for step, _, _ in result.history})
    assert len(good) >= 8
    assert result.bad == 0
    assert result.scale.value < 2**16
    wide = override(recipe, {"precision": "float32"})
    # Nothing has moved before the first good step, so its losses are those of the untrained network.
    torch.manual_seed(wide.seed)
    untrained = Objective.of(wide).train()
    temperature = schedules.of(wide).teacher_temperature(good[0])
    want = untrained(PoolBatches(pool(), wide)(good[0]), temperature)["ibot"]
    got = next(v for s, n, v in result.history if s == good[0] and n == "ibot")
    assert got == pytest.approx(float(want.detach()), rel=0.02)


def test_checkpointed_activations_change_nothing() -> None:
    recipe = tiny()
    batches = PoolBatches(pool(), recipe)
    plain = train(recipe, batches).tensors()
    again = train(recipe, batches, efficiency=EfficiencyConfig(checkpoint_activations=True)).tensors()
    assert plain.keys() == again.keys()
    assert all(torch.allclose(plain[k], again[k], atol=1e-6) for k in plain)


@pytest.mark.parametrize(
    ("recipe", "executed", "nominal", "tokens"),
    [
        (recipes.vitl16_short(), 1.15, 1.53, (690, 394)),
        (recipes.vitl14(), 1.37, 2.05, (914, 514)),
        (recipes.vitg14(), 5.0, 7.6, (914, 514)),
    ],
)
def test_cost_of_an_image(recipe: Recipe, executed: float, nominal: float, tokens: tuple[int, int]) -> None:
    cost = flops.of(recipe)
    assert cost.executed / 1e12 == pytest.approx(executed, rel=0.01)
    assert cost.nominal / 1e12 == pytest.approx(nominal, rel=0.01)
    assert (cost.student_tokens, cost.teacher_tokens) == tokens


def test_the_line_states_losses_speed_and_what_is_left() -> None:
    recipe = tiny(steps=2)
    seen: list[dict[str, float]] = []
    train(recipe, PoolBatches(pool(), recipe), log_every=1, tracker=lambda step, values: seen.append(dict(values)))
    text = metrics.line(1, 2, seen[-1] | {"mfu_executed": 0.3, "mfu_nominal": 0.4}, recipe)
    for part in (
        "step 2/2",
        "loss ",
        "ibot ",
        "koleo ",
        "lr ",
        "images/s",
        "data wait",
        "GiB",
        "30.0% executed",
        "left",
    ):
        assert part in text
    assert 1 <= seen[-1]["feature_rank"] <= 16
    assert 0 <= seen[-1]["target_entropy"] <= 3.5
    assert 0 < seen[-1]["prototypes_used"] <= 1


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


def test_four_bad_steps_in_a_row_stop_the_run_and_name_the_images(tmp_path: Path) -> None:
    recipe, batches = poisoned({2, 3, 4, 5})
    with pytest.raises(UserError, match=r"4 steps in a row, the last on images \[\d+"):
        train(recipe, batches, folder=tmp_path)  # type: ignore[arg-type]
    lines = [json.loads(x) for x in (tmp_path / "not-finite-0.jsonl").read_text().splitlines()]
    assert [x["step"] for x in lines] == [2, 3, 4, 5]
    assert all(len(x["images"]) == recipe.batch for x in lines)


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


@pytest.mark.slow
def test_compiled_blocks_change_nothing_but_rounding() -> None:
    recipe = tiny(precision="float32", steps=3, **{"model.depth": 1, "crops.locals": 2})
    batches = PoolBatches(pool(), recipe)
    plain = train(recipe, batches, log_every=1)
    # One compilation for both: it is what takes the time.
    efficiency = EfficiencyConfig(compile=True, checkpoint_activations=True)
    compiled = train(recipe, batches, efficiency=efficiency, log_every=1)
    block = compiled.objective.student["backbone"].blocks[0]  # type: ignore[index]
    assert block._compiled_call_impl is not None
    assert [v for _, n, v in compiled.history if n == "total"] == pytest.approx(
        [v for _, n, v in plain.history if n == "total"], rel=1e-4
    )
    assert compiled.tensors().keys() == plain.tensors().keys()
