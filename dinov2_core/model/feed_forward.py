"""The two feed-forward layers of the family: GELU MLP and SwiGLU."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from dinov2_core.model.layer_scale import scaled_linear


class Mlp(nn.Module):
    """``[T, D] → [T, D]`` through ``hidden`` units and an exact GELU; keys ``fc1``, ``fc2``."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor, scale: nn.Module | None = None) -> Tensor:
        """``scale`` is the branch's LayerScale, if it has one."""
        return scaled_linear(self.fc2, F.gelu(self.fc1(x)), scale)


class SwiGlu(nn.Module):
    """``w3(silu(a) · b)`` with ``a, b`` the halves of ``w12(x)`` (arXiv 2002.05202); keys ``w12``, ``w3``.

    ``hidden`` is the width of an MLP with as many parameters; the gate has :func:`swiglu_width` units.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        width = swiglu_width(hidden)
        self.w12 = nn.Linear(dim, 2 * width)
        self.w3 = nn.Linear(width, dim)

    def forward(self, x: Tensor, scale: nn.Module | None = None) -> Tensor:
        """``scale`` is the branch's LayerScale, if it has one."""
        gate, value = self.w12(x).chunk(2, dim=-1)
        return scaled_linear(self.w3, F.silu(gate) * value, scale)


def swiglu_width(hidden: int) -> int:
    """Units of the gate: two thirds of ``hidden``, rounded up to a multiple of 8."""
    return (int(hidden * 2 / 3) + 7) // 8 * 8


FEED_FORWARD = {"mlp": Mlp, "swiglu": SwiGlu}
