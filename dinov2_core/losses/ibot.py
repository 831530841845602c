"""The patch-level term: cross-entropy on masked patches (iBOT, arXiv 2111.07832; paper, section 4)."""

from __future__ import annotations

from torch import Tensor

from dinov2_core.losses.dino import cross_entropy


def ibot_loss(student: Tensor, targets: Tensor, masks: Tensor, *, temperature: float = 0.1) -> Tensor:
    r"""``(1 / 2B) Σ_crops (1 / |M_i|) Σ_{j ∈ M_i} CE(p_ij, z_ij)``; crops without a mask count with 0.

    Args:
        student, targets: ``[M, K]`` at the masked patches, in the order of ``masks.nonzero()``.
        masks: ``[2B, N]`` bool.
    """
    per_crop = masks.sum(dim=1)
    weights = (1.0 / per_crop.clamp(min=1))[:, None].expand_as(masks)[masks]
    return (cross_entropy(student, targets, temperature) * weights).sum() / len(masks)
