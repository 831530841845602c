"""The Kozachenko-Leonenko regulariser, which spreads features evenly (arXiv 1806.03198; paper, section 4)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def koleo_loss(features: Tensor, *, group: int = 0, eps: float = 1e-8) -> Tensor:
    r"""``-(1/n) Σ_i log(‖x_i - x_nn(i)‖ + ε)`` on L2-normalised features, ``nn(i)`` by largest dot product.

    Computed in float32 whatever surrounds it: ε is below half precision's smallest number, and two equal
    features would give infinity.

    Args:
        features: ``[B, D]``, B ≥ 2; the class tokens of one crop before the head.
        group: look for neighbours among so many rows that follow each other only; divides B. 0 is all of them.
    """
    with torch.autocast(features.device.type, enabled=False):
        x = F.normalize(features.float(), eps=eps, dim=-1)
        with torch.no_grad():
            groups = x.view(-1, group or len(x), x.shape[1])
            dots = groups @ groups.mT
            dots.diagonal(dim1=1, dim2=2).fill_(-1)
            first = torch.arange(0, len(x), groups.shape[1], device=x.device)
            nearest = (dots.argmax(dim=2) + first[:, None]).flatten()
        distance = F.pairwise_distance(x, x[nearest], eps=eps)
        return -(distance + eps).log().mean()
