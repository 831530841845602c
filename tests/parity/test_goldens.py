"""One training step equals the public reference's, for every case in ``DINOV2_GOLDENS`` (default ``tests/goldens``).

What the cases hold is in ``tests/goldens/README.md``. Everything is read from the case's own ``config``.
"""

from __future__ import annotations

import functools
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from dinov2_core.model.heads import HeadConfig
from dinov2_core.model.vision_transformer import VitConfig
from dinov2_core.train import param_groups
from dinov2_core.train.objective import Batch, Objective, Targets, build_network
from dinov2_core.train.recipe import LossConfig, OptimConfig
from dinov2_core.train.schedules import CosineSchedule

FOLDER = Path(os.environ.get("DINOV2_GOLDENS", Path(__file__).parent.parent / "goldens"))
CASES = sorted(p.stem for p in FOLDER.glob("*.json") if p.with_suffix(".safetensors").exists())


def relative(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours.double() - theirs.double()).norm() / theirs.double().norm().clamp(min=1e-30))


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}


@dataclass
class Step:
    """A case, and our step on its input."""

    case: dict[str, Any]
    want: dict[str, Tensor]
    objective: Objective
    targets: Targets
    student_cls: dict[str, Tensor]
    losses: dict[str, Tensor]
    norms: dict[str, Tensor]
    groups: dict[str, param_groups.Multipliers]


def network(c: dict[str, Any], state: dict[str, Tensor]) -> nn.ModuleDict:
    model = VitConfig(
        dim=c["dim"],
        depth=c["depth"],
        heads=c["heads"],
        patch=c["patch"],
        image_size=c["pos_grid"] * c["patch"],
        ffn="swiglu" if c["ffn"].startswith("swiglu") else "mlp",
        registers=c["registers"],
        layer_scale=1e-5 if any(".ls1." in k for k in state) else None,
        pos_offset=c["offset"],
        pos_antialias=c["antialias"],
    )
    dino = HeadConfig(c["k_dino"], c["hidden"], c["bneck_dino"])
    ibot = HeadConfig(c["k_ibot"], c["hidden"], c["bneck_ibot"]) if c["untied"] else None
    made = build_network(model, dino, ibot)
    made.load_state_dict(state, strict=True)
    return made


@functools.cache
def step(name: str) -> Step:
    case = json.loads((FOLDER / f"{name}.json").read_text())
    want = load_file(FOLDER / f"{name}.safetensors")
    c, weights = case["config"], case["weights"]
    loss = LossConfig(
        dino=weights["dino"],
        ibot=weights["ibot"],
        koleo=weights["koleo"],
        targets="centering" if c["centering"] == "centering" else "sinkhorn",
    )
    objective = Objective(network(c, part(want, "student.")), loss)
    objective.average.load_state_dict(part(want, "teacher."), strict=True)
    if "dino_center" in want:
        objective.dino_center = want["dino_center"].clone()
        objective.ibot_center = want["ibot_center"].clone()
    objective.train()
    objective.average.eval()

    masks = want["masks"]
    batch = Batch(want["global_crops"], want["local_crops"], masks, torch.arange(len(masks) // 2))
    seen: list[Targets] = []
    original = objective.targets
    objective.targets = lambda *a: seen.append(original(*a)) or seen[0]  # type: ignore[method-assign,func-returns-value]
    with torch.no_grad():
        crops = objective.student["backbone"].forward_list([batch.global_crops, batch.local_crops], [masks, None])
    losses = objective(batch, c["teacher_temp"])
    losses["total"].backward()
    norms = param_groups.clip_by_module(objective.student, c["clip"])

    optim = OptimConfig(layer_decay=c["layer_decay"], patch_embed_lr=0.2, clip=c["clip"])
    optimizer = param_groups.build_optimizer(objective.student, c["depth"], optim)
    param_groups.apply_schedule(optimizer, c["lr"], c["lr"], c["wd"])
    optimizer.step()
    objective.update_average(c["ema"])
    found = {id(p): g["multipliers"] for g in optimizer.param_groups for p in g["params"]}
    groups = {n: found[id(p)] for n, p in objective.student.named_parameters()}
    student_cls = {"student_global_cls": crops[0].cls, "student_local_cls": crops[1].cls}
    return Step(case, want, objective, seen[0], student_cls, losses, norms, groups)


def test_there_are_cases() -> None:
    assert CASES, f"no cases in {FOLDER}"


@pytest.mark.parametrize("name", CASES)
class TestStep:
    def test_teacher_targets(self, name: str) -> None:
        s = step(name)
        # The reference lists crop 2's targets first.
        assert relative(s.targets.cls.flip(0).flatten(0, 1), s.want["teacher_cls_targets"]) < 1e-5
        assert relative(s.targets.patches, s.want["teacher_patch_targets"]) < 1e-5

    def test_student_class_tokens(self, name: str) -> None:
        s = step(name)
        for key, cls in s.student_cls.items():
            assert relative(cls, s.want[key]) < 1e-5, key

    @pytest.mark.parametrize(
        ("ours", "theirs"),
        [
            ("dino_local", "loss_dino_local"),
            ("dino_global", "loss_dino_global"),
            ("koleo", "loss_koleo_sum_of_two_crops"),
            ("ibot", "loss_ibot"),
            ("total", "loss_total"),
        ],
    )
    def test_loss_terms(self, name: str, ours: str, theirs: str) -> None:
        s = step(name)
        assert float(s.losses[ours]) == pytest.approx(s.case[theirs], rel=1e-5)

    def test_gradient_norms_by_module(self, name: str) -> None:
        s = step(name)
        assert set(s.norms) == set(s.case["grad_norm"])
        for key, value in s.case["grad_norm"].items():
            assert float(s.norms[key]) == pytest.approx(value, rel=1e-5), key

    def test_next_centers(self, name: str) -> None:
        s = step(name)
        for key in ("dino_center", "ibot_center"):
            if f"{key}_next" in s.want:
                assert relative(getattr(s.objective, key), s.want[f"{key}_next"]) < 1e-5

    def test_parameter_groups_are_exactly_the_references(self, name: str) -> None:
        s = step(name)
        assert set(s.groups) == set(s.case["param_groups"])
        for key, group in s.case["param_groups"].items():
            ours = s.groups[key]
            assert ours.lr == group["lr_multiplier"], key
            assert ours.weight_decay == group["wd_multiplier"], key
            assert ours.last_layer == group["is_last_layer"], key

    @pytest.mark.parametrize("who", ["student", "teacher"])
    def test_weights_after_the_step(self, name: str, who: str) -> None:
        s = step(name)
        want = part(s.want, f"{who}_after.")
        ours = (s.objective.student if who == "student" else s.objective.average).state_dict()
        assert set(ours) == set(want)
        for key, value in want.items():
            got = ours[key]
            if key.endswith("attn.qkv.bias"):
                # The key third's gradient is zero up to rounding, which AdamW turns into a step.
                third = len(value) // 3
                keep = torch.cat([torch.arange(third), torch.arange(2 * third, 3 * third)])
                got, value = got[keep], value[keep]
            assert relative(got, value) < 1e-4, key

    @pytest.mark.parametrize("shape", ["square", "wide"])
    def test_features_at_evaluation(self, name: str, shape: str) -> None:
        s = step(name)
        # The reference's own weights, so that a rounding in its step is not ours.
        teacher = network(s.case["config"], part(s.want, "teacher_after.")).eval()
        with torch.no_grad():
            features = teacher["backbone"](s.want[f"eval_{shape}_input"])
        assert relative(features.cls, s.want[f"eval_{shape}_cls"]) < 1e-5
        assert relative(features.patches, s.want[f"eval_{shape}_patch"]) < 1e-5


def schedule_values() -> dict[str, Any]:
    return json.loads((FOLDER / "schedules.json").read_text()) if (FOLDER / "schedules.json").exists() else {}


@pytest.mark.parametrize("name", sorted(schedule_values()))
def test_schedules(name: str) -> None:
    case = schedule_values()[name]
    a = case["args"]
    ours = CosineSchedule(
        a["base_value"],
        a["final_value"],
        a["total_iters"],
        warmup=a.get("warmup_iters", 0),
        start=a.get("start_warmup_value", 0.0),
        freeze=a.get("freeze_iters", 0),
    )
    assert [ours(i) for i in case["at"]] == pytest.approx(case["values"], rel=1e-9, abs=1e-12)
