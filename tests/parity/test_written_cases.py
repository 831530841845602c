"""The parity test reads every key of a case: it passes on shapes unlike the given ones, and fails on a wrong value."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from tests.parity import test_goldens
from tests.parity.written_case import CONFIG, WEIGHTS, changed, write_case

CASES = {
    "untied_centering": (CONFIG, WEIGHTS),
    "tied_sinkhorn": (
        changed(
            seed=4, untied=False, centering="sinkhorn_knopp", ffn="mlp", registers=0, patch=4, depth=1, heads=2, dim=20,
            pos_grid=8, antialias=False, offset=0.1, batch=5, n_local=1, layer_decay=1.0, clip=3.0, local=12,
            bneck_ibot=14, k_ibot=40,
        ),
        {"dino": 1.0, "ibot": 1.0, "koleo": 0.1},
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("goldens")
    for name, (config, weights) in CASES.items():
        write_case(folder, name, config, weights)
    return folder


def parity_of(folder: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The parity test as if pytest had been started with ``DINOV2_GOLDENS``."""
    monkeypatch.setenv("DINOV2_GOLDENS", str(folder))
    spec = importlib.util.spec_from_file_location("tests.parity.again", test_goldens.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Its dataclasses look their module up by name.
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def check(module: ModuleType, name: str) -> None:
    """Every test of a case."""
    tests = module.TestStep()
    tests.test_teacher_targets(name)
    tests.test_student_class_tokens(name)
    for ours, theirs in (
        ("dino_local", "loss_dino_local"),
        ("dino_global", "loss_dino_global"),
        ("koleo", "loss_koleo_sum_of_two_crops"),
        ("ibot", "loss_ibot"),
        ("total", "loss_total"),
    ):
        tests.test_loss_terms(name, ours, theirs)
    tests.test_gradient_norms_by_module(name)
    tests.test_next_centers(name)
    tests.test_parameter_groups_are_exactly_the_references(name)
    for who in ("student", "teacher"):
        tests.test_weights_after_the_step(name, who)
    for shape in ("square", "wide"):
        tests.test_features_at_evaluation(name, shape)


@pytest.mark.parametrize("name", sorted(CASES))
def test_a_case_of_other_shapes_passes(name: str, written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = parity_of(written, monkeypatch)
    assert sorted(CASES) == module.CASES
    check(module, name)


@pytest.mark.parametrize(
    "wrong",
    [
        {"heads": 2},
        {"antialias": False},
        {"offset": 0.1},
        {"centering": "sinkhorn_knopp"},
        {"teacher_temp": 0.05},
        {"layer_decay": 0.9},
        {"clip": 0.4},
        {"lr": 1e-3},
        {"wd": 0.2},
        {"ema": 0.95},
        {"untied": False},
        {"registers": 0},
        {"ffn": "mlp"},
        {"weights": WEIGHTS | {"ibot": 1.0}},
        {"weights": WEIGHTS | {"koleo": 0.1}},
    ],
    ids=str,
)
def test_a_wrong_value_fails(
    wrong: dict[str, Any], written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = json.loads((written / "untied_centering.json").read_text())
    if "weights" in wrong:
        case["weights"] = wrong["weights"]
    else:
        case["config"] |= wrong
    (tmp_path / "x.json").write_text(json.dumps(case))
    shutil.copy(written / "untied_centering.safetensors", tmp_path / "x.safetensors")
    module = parity_of(tmp_path, monkeypatch)
    with pytest.raises((AssertionError, RuntimeError, IndexError)), torch.random.fork_rng():
        check(module, "x")
