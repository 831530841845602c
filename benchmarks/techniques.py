"""The techniques of a training step, and how to take them from an objective one by one: for ``train_step.py``.

What is taken away is replaced by the plain way: crops of each size apart, attention by products and softmax, both
branches of a block computed and then multiplied by 0. No timing and no tables here.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from dinov2_core.model.attention import use_attention
from dinov2_core.model.block import Block
from dinov2_core.model.packed import Layout
from dinov2_core.model.stochastic_depth import Kept
from dinov2_core.model.vision_transformer import Features, UsedFeatures, VisionTransformer
from dinov2_core.train.objective import Objective

ROWS = {
    "ibot": "iBOT-style",
    "packing": "+ packing",
    "attention": "+ fused attention",
    "depth": "+ efficient stochastic depth",
    "used": "+ last block for what is used",
    "memory": "+ freed memory kept (CPU)",
    "compile": "+ compiled blocks",
    "checkpoint": "+ activations computed again",
}


def unfused(qkv: Tensor, layout: Layout) -> Tensor:
    """Attention by two products and a softmax a group, with the matrix of weights in memory."""
    outputs = []
    for part, (b, n) in zip(qkv.split(layout.sizes), layout.groups, strict=True):
        q, k, v = part.view(b, n, 3, *qkv.shape[2:]).permute(2, 0, 3, 1, 4).unbind(0)
        weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(dim=-1).to(v.dtype)
        outputs.append((weights @ v).transpose(1, 2).reshape(b * n, -1))
    return torch.cat(outputs)


def run_apart(backbone: VisionTransformer) -> None:
    """Give ``backbone`` one forward pass a crop size, with the draws of stochastic depth of a packed pass's kind."""
    packed = backbone.forward_list

    def forward_list(crops: list[Tensor], masks: list[Tensor | None] | None = None) -> list[Features]:
        return [packed([x], [m])[0] for x, m in zip(crops, masks or [None] * len(crops), strict=True)]

    backbone.forward_list = forward_list  # type: ignore[method-assign, assignment]


def compute_whole_features(backbone: VisionTransformer) -> None:
    """Let ``backbone`` compute the last block for all tokens and then pick the used ones."""

    def forward_used(
        crops: list[Tensor], masks: list[Tensor | None] | None = None, patches: list[Tensor | None] | None = None
    ) -> list[UsedFeatures]:
        found = zip(backbone.forward_list(crops, masks), patches or [None] * len(crops), strict=True)
        return [UsedFeatures(f.cls, f.patches[:0].flatten(0, 1) if p is None else f.patches[p]) for f, p in found]

    backbone.forward_used = forward_used  # type: ignore[method-assign, assignment]


def compute_all(block: Block) -> None:
    """Let ``block`` compute both branches on every sequence and multiply what is dropped by 0."""

    def forward(x: Tensor, layout: Layout, kept: tuple[Kept, Kept] | None = None) -> Tensor:
        factors = [torch.ones(1, 1, device=x.device)] * 2
        if kept is not None:
            factors = [x.new_zeros(len(x), 1).index_copy(0, one.rows, one.scales.to(x.dtype)) for one in kept]
        x = x + (block.attend(x, layout) * factors[0]).to(x.dtype)
        return x + (block.feed(x) * factors[1]).to(x.dtype)

    block.forward = forward  # type: ignore[method-assign, assignment]


def prepare(row: str, objective: Objective, *, compiles: bool = False) -> None:
    """Take from ``objective`` every technique that comes after ``row``.

    ``compiles``: whether blocks are compiled in the rows after that of compiling too.
    """
    have = list(ROWS)[: list(ROWS).index(row) + 1]
    for network in (objective.student, objective.average):
        backbone = network["backbone"]
        assert isinstance(backbone, VisionTransformer)
        if "used" not in have:
            compute_whole_features(backbone)
        if "packing" not in have:
            run_apart(backbone)
        if "attention" not in have:
            use_attention(backbone, "unfused")
        for block in backbone.blocks:
            assert isinstance(block, Block)
            if "depth" not in have:
                compute_all(block)
            if row == "checkpoint" and network is objective.student:
                block.forward = functools.partial(  # type: ignore[method-assign]
                    checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False
                )
            if row == "compile" or (compiles and "compile" in have):
                block.compile(dynamic=False)
