"""A pre-norm transformer block with LayerScale, on packed sequences; stochastic depth is drawn outside."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from dinov2_core.model.attention import Attention
from dinov2_core.model.attention_backends import prepare_for_compiler
from dinov2_core.model.feed_forward import FEED_FORWARD
from dinov2_core.model.layer_scale import LayerScale
from dinov2_core.model.packed import Layout
from dinov2_core.model.stochastic_depth import Kept, Used, add_scaled


class Block(nn.Module):
    """``x + ls1(attn(norm1(x)))``, then ``x + ls2(mlp(norm2(x)))``."""

    def __init__(self, dim: int, heads: int, *, ffn: str, hidden: int, layer_scale: float | None) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads)
        self.ls1 = nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = FEED_FORWARD[ffn](dim, hidden)
        self.ls2 = nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale)

    def forward(
        self,
        x: Tensor,
        layout: Layout,
        kept: tuple[Kept, Kept] | None = None,
        tokens: Tensor | None = None,
        used: tuple[Used, Used] | None = None,
    ) -> Tensor:
        """``[T, D] → [T, D]`` in the dtype of ``x``, or ``[M, D]``: its rows ``tokens``, equal and cheaper.

        Args:
            kept: what the attention branch and the feed-forward branch see of ``x``; None is all of it.
            tokens: ``[M]`` int64, the only rows of the output that are used; None is all.
            used: with ``kept`` and ``tokens``, what :func:`stochastic_depth.used_of` makes of them for each branch.
        """
        if tokens is not None:
            return self._some(x, layout, tokens, kept, used)
        if kept is None:
            x = x + self.attend(x, layout).to(x.dtype)
            return x + self.feed(x).to(x.dtype)
        for_attention, for_feeding = kept
        x = add_scaled(x, self.attend(x.index_select(0, for_attention.rows), for_attention.layout), for_attention)
        return add_scaled(x, self.feed(x.index_select(0, for_feeding.rows)), for_feeding)

    def _some(
        self,
        x: Tensor,
        layout: Layout,
        tokens: Tensor,
        kept: tuple[Kept, Kept] | None,
        used: tuple[Used, Used] | None,
    ) -> Tensor:
        """Every token is attended to; projection and feed-forward layer see the used ones alone."""
        y = x.index_select(0, tokens)
        if kept is None or used is None:
            y = y + self.attend(x, layout, tokens).to(x.dtype)
            return y + self.feed(y).to(x.dtype)
        seen, (attended, fed) = kept[0], used
        y = add_scaled(y, self.attend(x.index_select(0, seen.rows), seen.layout, attended.within), attended)
        return add_scaled(y, self.feed(y.index_select(0, fed.rows)), fed)

    def attend(self, x: Tensor, layout: Layout, within: Tensor | None = None) -> Tensor:
        """The attention branch: ``[T, D] → [T, D]``, or its rows ``within``."""
        return self.attn(self.norm1(x), layout, self.ls1, within)

    def feed(self, x: Tensor) -> Tensor:
        """The feed-forward branch: ``[T, D] → [T, D]``."""
        return self.mlp(self.norm2(x), self.ls2)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """As ``nn.Module.compile``."""
        prepare_for_compiler()
        super().compile(*args, **kwargs)
