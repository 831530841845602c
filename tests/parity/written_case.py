"""Writes a case in the form of ``tests/goldens`` for any configuration, computed the long way round.

One forward a crop, every loss as a loop over its definition, AdamW by hand: nothing here is packed, fused or shared
with the training step but the network's modules and the multipliers of its parameters.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from dinov2_core.model.heads import HeadConfig
from dinov2_core.model.vision_transformer import VitConfig
from dinov2_core.train.objective import build_network
from dinov2_core.train.param_groups import multipliers

CONFIG: dict[str, Any] = {
    "seed": 3,
    "pos_grid": 3,
    "patch": 8,
    "dim": 24,
    "depth": 3,
    "heads": 3,
    "ffn": "swiglufused",
    "registers": 2,
    "antialias": True,
    "offset": 0.0,
    "k_dino": 40,
    "k_ibot": 28,
    "bneck_dino": 14,
    "bneck_ibot": 10,
    "hidden": 30,
    "untied": True,
    "batch": 3,
    "n_local": 2,
    "centering": "centering",
    "teacher_temp": 0.06,
    "layer_decay": 0.8,
    "clip": 0.5,
    "lr": 2e-3,
    "wd": 0.1,
    "ema": 0.9,
    "global": 32,
    "local": 16,
}
"""Unlike both given cases in every size; positions are resampled in training, and gradients are clipped."""
WEIGHTS = {"dino": 0.8, "ibot": 1.2, "koleo": 0.3}


def write_case(folder: Path, name: str, c: dict[str, Any], weights: dict[str, float]) -> None:
    """Write ``NAME.json`` and ``NAME.safetensors``."""
    torch.manual_seed(c["seed"])
    student, teacher = _network(c), _network(c)
    for network in (student, teacher):
        for parameter in network.parameters():
            # Away from zeros and from 1e-5, so that every path shows.
            parameter.data += 0.05 * torch.randn_like(parameter)
    tensors = _inputs(c)
    for who, network in (("student", student), ("teacher", teacher)):
        tensors |= {f"{who}.{k}": v.clone() for k, v in network.state_dict().items()}
    losses, made = _losses(c, weights, student, teacher, tensors)
    losses["loss_total"].backward()
    norms = {}
    for key, module in student.items():
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        norm = torch.cat([g.flatten() for g in gradients]).norm()
        norms[key] = float(norm)
        for g in gradients:
            g *= min(1.0, c["clip"] / (float(norm) + 1e-6))
    groups = {}
    for key, parameter in student.named_parameters():
        m = multipliers(key, depth=c["depth"], layer_decay=c["layer_decay"], patch_embed_lr=0.2)
        groups[key] = {"lr_multiplier": m.lr, "wd_multiplier": m.weight_decay, "is_last_layer": m.last_layer}
        _first_adamw_step(parameter, c["lr"] * m.lr, c["wd"] * m.weight_decay)
    for mean, new in zip(teacher.parameters(), student.parameters(), strict=True):
        mean.data = c["ema"] * mean.data + (1 - c["ema"]) * new.data
    for who, network in (("student", student), ("teacher", teacher)):
        made |= {f"{who}_after.{k}": v.clone() for k, v in network.state_dict().items()}
    side = c["pos_grid"] * c["patch"]
    for shape, size in (("square", (side, side)), ("wide", (3 * c["patch"], 7 * c["patch"]))):
        made[f"eval_{shape}_input"] = torch.randn(2, 3, *size)
        with torch.no_grad():
            seen = teacher.eval()["backbone"](made[f"eval_{shape}_input"])
        made |= {f"eval_{shape}_cls": seen.cls, f"eval_{shape}_patch": seen.patches}
    told = {k: float(v.detach()) for k, v in losses.items()}
    text = {**told, "weights": weights, "grad_norm": norms, "param_groups": groups, "config": c}
    (folder / f"{name}.json").write_text(json.dumps(text))
    save_file({k: v.detach().clone().contiguous() for k, v in (tensors | made).items()}, folder / f"{name}.safetensors")


def _network(c: dict[str, Any]) -> nn.ModuleDict:
    model = VitConfig(
        dim=c["dim"],
        depth=c["depth"],
        heads=c["heads"],
        patch=c["patch"],
        image_size=c["pos_grid"] * c["patch"],
        ffn="swiglu" if c["ffn"].startswith("swiglu") else "mlp",
        registers=c["registers"],
        pos_offset=c["offset"],
        pos_antialias=c["antialias"],
    )
    ibot = HeadConfig(c["k_ibot"], c["hidden"], c["bneck_ibot"]) if c["untied"] else None
    return build_network(model, HeadConfig(c["k_dino"], c["hidden"], c["bneck_dino"]), ibot)


def _inputs(c: dict[str, Any]) -> dict[str, Tensor]:
    crops, patches = 2 * c["batch"], (c["global"] // c["patch"]) ** 2
    masks = torch.rand(crops, patches) < 0.4
    masks[0], masks[1, 0] = False, True
    made = {
        "global_crops": torch.randn(crops, 3, c["global"], c["global"]),
        "local_crops": torch.randn(c["n_local"] * c["batch"], 3, c["local"], c["local"]),
        "masks": masks,
    }
    if c["centering"] == "centering":
        made["dino_center"] = 0.1 * torch.randn(1, c["k_dino"])
        made["ibot_center"] = 0.1 * torch.randn(1, 1, c["k_ibot"] if c["untied"] else c["k_dino"])
    return made


def _losses(
    c: dict[str, Any],
    weights: dict[str, float],
    student: nn.ModuleDict,
    teacher: nn.ModuleDict,
    given: dict[str, Tensor],
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    b, masks = c["batch"], given["masks"]
    patch_head = "ibot_head" if c["untied"] else "dino_head"
    made: dict[str, Tensor] = {}
    with torch.no_grad():
        seen = [teacher["backbone"](crop[None]) for crop in given["global_crops"]]
        image_logits = teacher["dino_head"](torch.cat([x.cls for x in seen]))
        patch_logits = teacher[patch_head](torch.cat([x.patches[0, m] for x, m in zip(seen, masks, strict=True)]))
        if c["centering"] == "centering":
            image_targets = ((image_logits - given["dino_center"]) / c["teacher_temp"]).softmax(1)
            patch_targets = ((patch_logits - given["ibot_center"][0]) / c["teacher_temp"]).softmax(1)
            made["dino_center_next"] = 0.9 * given["dino_center"] + 0.1 * image_logits.mean(0)
            made["ibot_center_next"] = 0.9 * given["ibot_center"] + 0.1 * patch_logits.mean(0)
        else:
            image_targets = _balanced(image_logits, c["teacher_temp"])
            patch_targets = _balanced(patch_logits, c["teacher_temp"])
    large = [
        student["backbone"](crop[None], mask[None]) for crop, mask in zip(given["global_crops"], masks, strict=True)
    ]
    small = [student["backbone"](crop[None]) for crop in given["local_crops"]]
    big_cls, small_cls = torch.cat([x.cls for x in large]), torch.cat([x.cls for x in small])
    big, little = student["dino_head"](big_cls), student["dino_head"](small_cls)
    pairs = 2 * c["n_local"] + 2
    across, local, ibot = torch.zeros(()), torch.zeros(()), torch.zeros(())
    for image in range(b):
        for target in (0, 1):
            p = image_targets[target * b + image]
            across = across + _entropy(p, big[(1 - target) * b + image]) / b / pairs
            for crop in range(c["n_local"]):
                local = local + _entropy(p, little[crop * b + image]) / b / pairs
    at = 0
    for crop, mask in enumerate(masks):
        for patch in mask.nonzero().flatten():
            z = student[patch_head](large[crop].patches[0, patch])
            ibot = ibot + _entropy(patch_targets[at], z) / int(mask.sum()) / len(masks)
            at += 1
    koleo = torch.zeros(())
    for crop in (0, 1):
        x = nn.functional.normalize(big_cls[crop * b : crop * b + b], dim=1)
        for i in range(b):
            j = max((j for j in range(b) if j != i), key=lambda j: float(x[i] @ x[j]))
            koleo = koleo - ((x[i] - x[j] + 1e-8).norm() + 1e-8).log() / b
    total = weights["dino"] * (local + across) + weights["ibot"] * ibot + weights["koleo"] * koleo
    # The public form lists crop 2's targets first.
    made["teacher_cls_targets"] = torch.cat([image_targets[b:], image_targets[:b]])
    made["teacher_patch_targets"] = patch_targets
    made |= {"student_global_cls": big_cls, "student_local_cls": small_cls}
    named = {"dino_local": local, "dino_global": across, "koleo_sum_of_two_crops": koleo, "ibot": ibot, "total": total}
    return {f"loss_{k}": v for k, v in named.items()}, made


def _entropy(p: Tensor, z: Tensor) -> Tensor:
    return -(p * (z / 0.1).log_softmax(0)).sum()


def _balanced(logits: Tensor, temperature: float) -> Tensor:
    q = (logits.double() / temperature).exp()
    for _ in range(3):
        q = q / q.sum(0) / q.shape[1]
        q = q / q.sum(1, keepdim=True) / q.shape[0]
    return (q * q.shape[0]).float()


def _first_adamw_step(parameter: nn.Parameter, lr: float, weight_decay: float) -> None:
    if parameter.grad is not None:
        # At the first step both bias-corrected moments are the gradient's own.
        moved = parameter.grad / (parameter.grad.abs() + 1e-8)
        parameter.data = parameter.data * (1 - lr * weight_decay) - lr * moved


def changed(**other: Any) -> dict[str, Any]:
    """:data:`CONFIG` with other values."""
    return copy.deepcopy(CONFIG) | other
