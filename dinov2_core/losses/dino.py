"""The image-level term: cross-entropy between class tokens of different crops (paper, section 4)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def cross_entropy(student: Tensor, targets: Tensor, temperature: float) -> Tensor:
    r"""``-Σ_k p_k log softmax(z / τ)_k`` in float32: ``[…]`` from logits ``[…, K]`` and targets ``[…, K]``.

    Shapes broadcast; there is no gradient for the targets, nor a second one for the logits.
    """
    shape = torch.broadcast_shapes(student.shape, targets.shape)
    loss = _CrossEntropy.apply(student.expand(shape), targets.expand(shape), temperature)  # type: ignore[no-untyped-call]
    assert isinstance(loss, Tensor)
    return loss


class _CrossEntropy(torch.autograd.Function):
    """The logits are the largest tensors of a step: two passes forward and three backward, instead of ten."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, targets: Tensor, temperature: float) -> Tensor:
        ctx.temperature, ctx.dtype = temperature, student.dtype
        logs = F.log_softmax(student.float().div(temperature), dim=-1)
        targets = targets.to(logs.dtype)
        ctx.save_for_backward(logs, targets)
        # A row's dot product without the tensor of products.
        return -torch.matmul(targets.unsqueeze(-2), logs.unsqueeze(-1))[..., 0, 0]

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """``(Σ_k p_k · softmax(z / τ) - p) / τ``."""
        logs, targets = ctx.saved_tensors
        rate = (gradient / ctx.temperature).unsqueeze(-1)
        mass = targets.sum(dim=-1, keepdim=True)
        found = logs.exp().mul_(rate * mass)
        return torch.addcmul(found, targets, rate, value=-1.0, out=found).to(ctx.dtype), None, None


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
