"""The step benchmark: its rows compute the same losses, its FLOPs are the published ones, the GPU script runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import techniques, train_step
from dinov2_core.model import attention_backends as backends
from dinov2_core.train import flops
from dinov2_core.train.objective import Objective

ROOT = Path(__file__).resolve().parents[2]
SIZES = "--model tiny --image 56 --batch 4 --locals 2 --prototypes 64 --hidden 32"
TINY = f"{SIZES} --device cpu --precision float32 --threads 1"


@pytest.mark.parametrize(
    ("arguments", "executed", "nominal"),
    [
        # The published workloads (2 × 224 + 8 × 96 or 98), in TFLOP an image.
        ("--model large --patch 16 --local 96 --drop 0.3", 1.15, 1.53),
        ("--model large --patch 14 --local 98 --drop 0.4 --prototypes 131072", 1.37, 2.05),
    ],
)
def test_flops_are_those_of_the_published_recipes(arguments: str, executed: float, nominal: float) -> None:
    recipe = train_step.recipe_of(train_step.parser().parse_args(arguments.split()))
    cost = flops.of(recipe)
    assert cost.executed / 1e12 == pytest.approx(executed, rel=0.03)
    assert cost.nominal / 1e12 == pytest.approx(nominal, rel=0.03)


def test_every_row_computes_the_same_losses_and_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without stochastic depth the rows are one function; with it they differ by their draws alone."""
    monkeypatch.setitem(
        backends.BACKENDS, "unfused", backends.Backend(techniques.unfused, lambda device, dtype, dim: "")
    )
    recipe = train_step.recipe_of(train_step.parser().parse_args([*TINY.split(), "--drop", "0"]))
    batch = train_step.batch_of(recipe, torch.device("cpu"))
    results = []
    for row in [r for r in techniques.ROWS if r != "compile"]:
        torch.manual_seed(0)
        objective = Objective.of(recipe).train()
        techniques.prepare(row, objective)
        total = objective(batch, 0.04)["total"]
        total.backward()
        gradients = [p.grad.flatten() for p in objective.student.parameters() if p.grad is not None]
        results.append((total.detach(), torch.cat(gradients)))
    for total, gradient in results[1:]:
        assert torch.allclose(total, results[0][0], rtol=1e-5)
        assert float((gradient - results[0][1]).norm() / results[0][1].norm()) < 1e-4


def test_what_is_computed_and_dropped_equals_what_is_not_computed() -> None:
    recipe = train_step.recipe_of(train_step.parser().parse_args([*TINY.split(), "--drop", "0.5"]))
    batch = train_step.batch_of(recipe, torch.device("cpu"))
    totals = []
    for row in ("attention", "depth"):
        torch.manual_seed(0)
        objective = Objective.of(recipe).train()
        techniques.prepare(row, objective)
        torch.manual_seed(1)
        totals.append(float(objective(batch, 0.04)["total"].detach()))
    assert totals[0] == pytest.approx(totals[1], rel=1e-5)


@pytest.mark.slow
def test_the_gpu_script_runs_whole_at_small_size(tmp_path: Path) -> None:
    environment = os.environ | {"DEVICE": "cpu", "SIZE": "tiny", "PYTHON": sys.executable, "OUT": str(tmp_path)}
    ended = subprocess.run(
        [str(ROOT / "benchmarks" / "gpu.sh")], capture_output=True, text=True, env=environment, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "FAILED" not in ended.stdout
    rows = json.loads((tmp_path / "techniques.json").read_text())["rows"]
    assert [r["row"] for r in rows] == [v for k, v in techniques.ROWS.items() if k != "compile"]
    assert all(r["images_s"] > 0 and r["memory"] > 0 for r in rows)
