"""Low-rank adaptation (Hu et al., arXiv 2106.09685): linear layers keep their weight and learn a product beside it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class LowRank(nn.Module):
    """``weight [out, in]`` → ``weight + (alpha / rank) · up @ down``; ``up`` starts at 0, so nothing changes at first.

    A parametrisation: layers stay what they are, whoever reads their weight.
    """

    def __init__(self, outputs: int, inputs: int, *, rank: int, alpha: float) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.empty(rank, inputs))
        self.up = nn.Parameter(torch.zeros(outputs, rank))
        self.scale = alpha / rank
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.scale * (self.up @ self.down)


def adapt(backbone: nn.Module, *, rank: int, alpha: float) -> None:
    """Freeze ``backbone`` and put a low-rank product beside every linear layer of its blocks, in place."""
    backbone.requires_grad_(False)
    layers = [m for name, m in backbone.named_modules() if isinstance(m, nn.Linear) and "blocks." in name]
    for layer in layers:
        made = LowRank(layer.out_features, layer.in_features, rank=rank, alpha=alpha).to(layer.weight.device)
        nn.utils.parametrize.register_parametrization(layer, "weight", made)
        made.requires_grad_(True)


def merge(backbone: nn.Module) -> None:
    """Make the learnt products part of the weights; the backbone then has the keys that it had before."""
    for module in list(backbone.modules()):
        if isinstance(module, nn.Linear) and nn.utils.parametrize.is_parametrized(module, "weight"):
            nn.utils.parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
