"""Losses of depth probes: scale-invariant logarithmic error and differences of its gradients.

Both compare logarithms where the truth is known (``low < truth < high``).
"""

from __future__ import annotations

import torch
from torch import Tensor

EPSILON = 1e-3


def sig_loss(predicted: Tensor, truth: Tensor, known: Tensor) -> Tensor:
    """``√(var(g) + 0.15 · mean(g)²)``, g the difference of logarithms (arXiv 1406.2283; constants of the reference).

    Args:
        predicted, truth: ``[B, 1, H, W]`` metres; ``known``: the same shape, bool.

    Returns:
        A scalar; 0 where nothing is known.
    """
    if known.sum() < 2:
        return predicted.sum() * 0
    g = torch.log(predicted[known] + EPSILON) - torch.log(truth[known] + EPSILON)
    # The root has no gradient at 0.
    return torch.sqrt(g.var() + 0.15 * g.mean() ** 2 + 1e-12)


def gradient_loss(predicted: Tensor, truth: Tensor, known: Tensor, *, scales: int = 4) -> Tensor:
    """Mean absolute difference of the logarithms' gradients at steps of 1, 2, 4, 8 pixels (arXiv 1804.00607).

    Arguments as :func:`sig_loss`. A difference counts where both of its pixels are known.
    """
    safe = torch.where(known, truth, torch.ones_like(truth))
    g = torch.log(predicted + EPSILON) - torch.log(safe + EPSILON)
    total = predicted.sum() * 0
    for scale in range(scales):
        step = 2**scale
        fine, mask = g[..., ::step, ::step], known[..., ::step, ::step]
        across = (fine[..., 1:] - fine[..., :-1]).abs()[mask[..., 1:] & mask[..., :-1]]
        down = (fine[..., 1:, :] - fine[..., :-1, :]).abs()[mask[..., 1:, :] & mask[..., :-1, :]]
        total = total + (across.sum() + down.sum()) / mask.sum().clamp(min=1)
    return total
