"""A pre-norm transformer block with LayerScale and efficient stochastic depth, on packed sequences."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dinov2_core.model.attention import Attention
from dinov2_core.model.feed_forward import FEED_FORWARD
from dinov2_core.model.packed import Layout


class LayerScale(nn.Module):
    """Multiplies each channel by a learned factor; key ``gamma``."""

    def __init__(self, dim: int, init: float) -> None:
        super().__init__()
        self.init = init
        self.gamma = nn.Parameter(torch.full((dim,), init))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    """``x + ls1(attn(norm1(x)))``, then ``x + ls2(mlp(norm2(x)))``."""

    def __init__(
        self, dim: int, heads: int, *, ffn: str, hidden: int, layer_scale: float | None, drop_path: float
    ) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads)
        self.ls1 = nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = FEED_FORWARD[ffn](dim, hidden)
        self.ls2 = nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """``[T, D] → [T, D]``."""
        if self.training and self.drop_path > 0:
            x = self._subset(x, layout, self._attend)
            return self._subset(x, layout, self._feed)
        x = x + self._attend(x, layout)
        return x + self._feed(x, layout)

    def _attend(self, x: Tensor, layout: Layout) -> Tensor:
        return self.ls1(self.attn(self.norm1(x), layout))

    def _feed(self, x: Tensor, layout: Layout) -> Tensor:
        return self.ls2(self.mlp(self.norm2(x)))

    def _subset(self, x: Tensor, layout: Layout, branch: object) -> Tensor:
        """Stochastic depth that skips the work of what it drops (paper, section 5): the branch sees a random subset
        of each group's sequences and is added back scaled, so that the sum keeps its expectation."""
        index, kept, scales = keep_some(layout, self.drop_path, x.device)
        added = branch(x.index_select(0, index), kept) * scales[:, None].to(x.dtype)  # type: ignore[operator]
        return x.index_add(0, index, added.to(x.dtype))


def keep_some(layout: Layout, drop: float, device: torch.device) -> tuple[Tensor, Layout, Tensor]:
    """Draw which sequences of each group stay.

    Returns:
        ``(token indices [T'], the layout of what stays, B_i / B'_i for each token [T'])``.
    """
    start, indices, groups, scales = 0, [], [], []
    for b, n in layout.groups:
        keep = max(int(b * (1 - drop)), 1)
        chosen = torch.randperm(b)[:keep].to(device)
        indices.append((start + chosen[:, None] * n + torch.arange(n, device=device)).flatten())
        scales.append(torch.full((keep * n,), b / keep, device=device))
        groups.append((keep, n))
        start += b * n
    return torch.cat(indices), Layout(tuple(groups)), torch.cat(scales)
