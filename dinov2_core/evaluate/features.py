"""Frozen features of many images, and the raw-pixel control."""

from __future__ import annotations

import torch
from torch import Tensor

from dinov2_core.model.preprocessing import Preprocessing
from dinov2_core.model.vision_transformer import VisionTransformer


@torch.inference_mode()
def extract(backbone: VisionTransformer, images: Tensor, preprocessing: Preprocessing, *, batch: int = 256) -> Tensor:
    """Class tokens after the last norm, not L2-normalised.

    Args:
        images: ``[N, 3, S, S]`` uint8 on the CPU.
        batch: images a forward pass; changes speed, not features (up to rounding).

    Returns:
        ``[N, D]`` float32 on the CPU.
    """
    device = next(backbone.parameters()).device
    parts = [backbone(preprocessing.normalize(part).to(device)).cls.float().cpu() for part in images.split(batch)]
    return torch.cat(parts) if parts else torch.empty(0, backbone.config.dim)


def pixel_features(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Raw pixels as features, minus the train mean (cosines between uncentred pixels measure brightness only).

    Args:
        train, test: ``[N, 3, S, S]`` uint8.

    Returns:
        ``[N, 3·S·S]`` float32 each.
    """
    one, two = train.flatten(1).float() / 255, test.flatten(1).float() / 255
    mean = one.mean(dim=0)
    return one - mean, two - mean
