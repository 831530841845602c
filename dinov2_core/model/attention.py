"""Multi-head self-attention over a packed sequence, and which kernel of ``attention_backends.py`` it uses."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dinov2_core.model.attention_backends import AUTO, BACKENDS, check_name, choose
from dinov2_core.model.layer_scale import scaled_linear
from dinov2_core.model.packed import Layout


class Attention(nn.Module):
    """``[T, D] → [T, D]``; keys ``qkv``, ``proj``, both with bias."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"width {dim} is not a multiple of {heads} heads")
        self.heads, self.head_dim = heads, dim // heads
        self.attention_backend = AUTO
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(
        self, x: Tensor, layout: Layout, scale: nn.Module | None = None, within: Tensor | None = None
    ) -> Tensor:
        """``scale`` is the branch's LayerScale, if it has one; ``within [m]`` the rows to return, None is all."""
        qkv = self.qkv(x).view(x.shape[0], 3, self.heads, self.head_dim)
        name = choose(self.attention_backend, str(qkv.device), qkv.dtype, self.head_dim)
        attended = BACKENDS[name].attend(qkv, layout)
        return scaled_linear(self.proj, attended if within is None else attended.index_select(0, within), scale)


def use_attention(module: nn.Module, name: str) -> None:
    """Set the back-end of every attention layer in ``module``.

    Raises:
        ConfigError: there is no such back-end. Whether it can run is known when it first does.
    """
    check_name(name)
    for layer in _layers(module):
        layer.attention_backend = name


def describe(module: nn.Module, device: torch.device, dtype: torch.dtype) -> str:
    """One line for logs: which back-end the layers of ``module`` use for products in ``dtype`` on ``device``.

    Raises:
        UserError: the back-end that was set cannot run there, with the reason.
    """
    found = {choose(one.attention_backend, str(device), dtype, one.head_dim) for one in _layers(module)}
    return f"attention: {', '.join(sorted(found))} ({str(dtype).removeprefix('torch.')} on {device})"


def _layers(module: nn.Module) -> list[Attention]:
    return [part for part in module.modules() if isinstance(part, Attention)]
