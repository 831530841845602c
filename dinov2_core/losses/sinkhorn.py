"""Teacher targets by Sinkhorn-Knopp (arXiv 2006.09882; paper, section 4)."""

from __future__ import annotations

import torch
from torch import Tensor

from dinov2_core.losses.distributed import sum_over_ranks


@torch.no_grad()
def sinkhorn_knopp(logits: Tensor, temperature: float, *, iterations: int = 3) -> Tensor:
    r"""Targets whose prototypes are used equally over the whole batch of all processes.

    With :math:`Q = \exp(z / \tau)^\top` (K × B), scaled to sum 1, repeat: divide each row by its sum and K, each
    column by its sum and B. At last multiply by B, so that each sample's targets sum to 1.

    Args:
        logits: ``[B, K]`` of this process, any float dtype; B may differ between processes (masked patches).

    Returns:
        ``[B, K]`` float32
    """
    scaled = logits.float() / temperature
    count = sum_over_ranks(torch.tensor(float(len(logits)), device=logits.device))
    q = scaled.exp()
    q /= sum_over_ranks(q.sum())
    for _ in range(iterations):
        q /= sum_over_ranks(q.sum(dim=0, keepdim=True)) * q.shape[1]
        q /= q.sum(dim=1, keepdim=True) * count
    return q * count
