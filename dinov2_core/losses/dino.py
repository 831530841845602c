"""The image-level term: cross-entropy between class tokens of different crops (paper, section 4)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def cross_entropy(student: Tensor, targets: Tensor, temperature: float) -> Tensor:
    r"""``-Σ_k p_k log softmax(z / τ)_k`` in float32: ``[…]`` from logits and targets ``[…, K]``."""
    return -(targets * F.log_softmax(student.float() / temperature, dim=-1)).sum(dim=-1)


def dino_loss(
    student_global: Tensor, student_local: Tensor, targets: Tensor, *, temperature: float = 0.1
) -> tuple[Tensor, Tensor]:
    r"""``(1 / T) Σ_pairs mean_B CE`` over every local crop against both teacher crops and every global crop against
    the other, with ``T = 2·n_local + 2`` pairs.

    Args:
        student_global: ``[2, B, K]`` logits of crops 1 and 2.
        student_local: ``[n_local, B, K]``; n_local may be 0.
        targets: ``[2, B, K]`` for crops 1 and 2.

    Returns:
        ``(the local pairs' part, the global pairs' part)``, scalars; their sum is the loss.
    """
    n_local = len(student_local)
    pairs = 2 * n_local + 2
    across = cross_entropy(student_global, targets.flip(0), temperature).mean(dim=1).sum()
    if not n_local:
        return across.new_zeros(()), across / pairs
    # CE is linear in the target: both teacher crops at once.
    local = cross_entropy(student_local, targets.sum(dim=0)[None], temperature).mean(dim=1).sum()
    return local / pairs, across / pairs
