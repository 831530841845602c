"""Teacher targets by centring and sharpening (DINO, arXiv 2104.14294)."""

from __future__ import annotations

import torch
from torch import Tensor

from dinov2_core.losses.distributed import sum_over_ranks


@torch.no_grad()
def centred_softmax(logits: Tensor, center: Tensor, temperature: float) -> Tensor:
    r"""``softmax((z - c) / τ)`` in float32: ``[B, K]`` from ``[B, K]`` and a center that broadcasts to it."""
    return ((logits.float() - center) / temperature).softmax(dim=-1)


@torch.no_grad()
def next_center(logits: Tensor, center: Tensor, *, momentum: float = 0.9) -> Tensor:
    r"""``c ← m c + (1 - m) mean(z)`` over the samples of all processes; it holds from the next step on.

    Args:
        logits: ``[B, K]``
        center: ``[1, K]`` or any shape with K last, returned in that shape.
    """
    total = sum_over_ranks(logits.float().sum(dim=0))
    count = sum_over_ranks(torch.tensor(float(len(logits)), device=logits.device))
    return center * momentum + (total / count).view(center.shape) * (1 - momentum)
