"""The projection head that turns features into prototype logits; the DINO and iBOT heads are both of this class."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class HeadConfig:
    """A head's shape: three linear layers to ``bottleneck``, then ``prototypes``."""

    prototypes: int = 65_536
    hidden: int = 2048
    bottleneck: int = 256


class WeightNormLinear(nn.Module):
    """A linear layer without bias whose rows are ``g·v / ‖v‖`` (arXiv 1602.07868); keys ``weight_g``, ``weight_v``."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(outputs, 1))
        self.weight_v = nn.Parameter(torch.empty(outputs, inputs))
        nn.init.trunc_normal_(self.weight_v, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        v = self.weight_v
        return F.linear(x, v * (self.weight_g / v.norm(dim=1, keepdim=True)))


class Head(nn.Module):
    """``[…, D] → […, K]``: GELU MLP to the bottleneck, L2 normalisation, weight-normed prototypes.

    Keys ``mlp.{0,2,4}``, ``last_layer.weight_{g,v}`` as in the public reference.
    """

    def __init__(self, dim: int, config: HeadConfig) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(dim, config.hidden),
            nn.GELU(),
            nn.Linear(config.hidden, config.hidden),
            nn.GELU(),
            nn.Linear(config.hidden, config.bottleneck),
        )
        self.last_layer = WeightNormLinear(config.bottleneck, config.prototypes)
        for module in self.mlp:
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    @property
    def prototypes(self) -> int:
        return self.last_layer.weight_v.shape[0]

    def forward(self, x: Tensor) -> Tensor:
        x = self.mlp(x)
        # 1e-12 is not a float16 number.
        return self.last_layer(F.normalize(x, dim=-1, eps=1e-6 if x.dtype == torch.float16 else 1e-12))
