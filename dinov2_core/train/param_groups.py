"""Which parameter gets which share of the learning rate and of the weight decay, and the optimizer over them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from dinov2_core.train.recipe import OptimConfig


@dataclass(frozen=True)
class Multipliers:
    """One parameter's factors; ``last_layer`` parameters follow the schedule that is frozen at first."""

    lr: float
    weight_decay: float
    last_layer: bool


def multipliers(name: str, *, depth: int, layer_decay: float, patch_embed_lr: float) -> Multipliers:
    """The factors of parameter ``name`` (``backbone.…``, ``dino_head.…``, ``ibot_head.…``).

    Learning rates decay from the head to the input: ``layer_decay ^ (depth + 1 - i)`` with i = 0 for tokens, positions
    and patch embedding, block + 1 for blocks, depth + 1 for the final norm and heads. Biases, norms and LayerScale
    have no weight decay; tokens, positions and prototypes do.
    """
    layer = depth + 1
    if name.startswith("backbone."):
        if ".blocks." in name:
            layer = int(name.split(".blocks.")[1].split(".")[0]) + 1
        elif any(part in name for part in ("pos_embed", "patch_embed", "mask_token", "cls_token", "register_tokens")):
            layer = 0
    lr = layer_decay ** (depth + 1 - layer)
    if "patch_embed" in name:
        lr *= patch_embed_lr
    plain = name.endswith(".bias") or "norm" in name or "gamma" in name
    return Multipliers(lr, 0.0 if plain else 1.0, "last_layer" in name)


def build_optimizer(student: nn.Module, depth: int, optim: OptimConfig) -> torch.optim.AdamW:
    """AdamW with one group for each set of equal factors; each group carries them as ``multipliers``."""
    groups: dict[Multipliers, list[nn.Parameter]] = {}
    for name, parameter in student.named_parameters():
        key = multipliers(name, depth=depth, layer_decay=optim.layer_decay, patch_embed_lr=optim.patch_embed_lr)
        groups.setdefault(key, []).append(parameter)
    return torch.optim.AdamW(
        [{"params": parameters, "multipliers": key} for key, parameters in groups.items()],
        lr=0.0,
        betas=(optim.beta1, optim.beta2),
        weight_decay=0.0,
        fused=True,
    )


def apply_schedule(optimizer: torch.optim.Optimizer, lr: float, last_layer_lr: float, weight_decay: float) -> None:
    """Set this step's learning rates and weight decays."""
    for group in optimizer.param_groups:
        factors: Multipliers = group["multipliers"]
        group["lr"] = (last_layer_lr if factors.last_layer else lr) * factors.lr
        group["weight_decay"] = weight_decay * factors.weight_decay


def clip_by_module(
    student: Mapping[str, nn.Module] | nn.ModuleDict, limit: float, *, scale: float = 1.0
) -> dict[str, torch.Tensor]:
    """Clip each sub-module's gradient norm on its own; the norms before clipping (0-d), by sub-module.

    Of sharded gradients the norms are those of the whole, the same on every process.

    Args:
        scale: what the loss was multiplied by; gradients are divided by it first.
    """
    norms: dict[str, torch.Tensor] = {}
    for name, module in student.items():
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        own = [local(g) for g in gradients]
        if scale != 1.0:
            torch._foreach_mul_(own, 1.0 / scale)
        norm = nn.utils.get_total_norm(gradients, foreach=True)
        norms[name] = norm.full_tensor() if isinstance(norm, DTensor) else norm
        torch._foreach_mul_(own, (limit / (norms[name] + 1e-6)).clamp(max=1.0))
    return norms


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This process's part of a sharded tensor; any other as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
