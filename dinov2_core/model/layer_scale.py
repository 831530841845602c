"""LayerScale: a learned factor for each channel of a residual branch (arXiv 2103.17239), and how it is applied."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LayerScale(nn.Module):
    """Multiplies each channel by a learned factor; key ``gamma``."""

    def __init__(self, dim: int, init: float) -> None:
        super().__init__()
        self.init = init
        self.gamma = nn.Parameter(torch.full((dim,), init))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


def scaled_linear(layer: nn.Linear, x: Tensor, scale: nn.Module | None) -> Tensor:
    """``scale(layer(x))``, for ``scale`` a :class:`LayerScale`, an identity or None: ``[T, D] → [T, D']``.

    A factor a channel is a factor a row of the weight. Applied there it costs one pass over the weight instead of three
    over the tokens, and the branch's output need not be kept for the backward pass.
    """
    # Right after initialisation 1e-5 · 0.02 is no normal number of float16.
    if not isinstance(scale, LayerScale) or _is_float16(x):
        return layer(x) if scale is None else scale(layer(x))
    gamma = scale.gamma
    return F.linear(x, layer.weight * gamma[:, None], None if layer.bias is None else layer.bias * gamma)


def _is_float16(x: Tensor) -> bool:
    kind = x.device.type
    return x.dtype == torch.float16 or (
        torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.float16
    )
