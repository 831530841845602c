"""What the tests against other programs share: shapes, weights that exercise every tensor, pictures, features."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from dinov2_core.model import presets
from dinov2_core.model.vision_transformer import VisionTransformer, VitConfig

SIDE = 56
"""Of the stored grid in pixels: 4 × 4 patches."""

SIZES = {"stored grid": (56, 56), "other square": (84, 84), "not square": (42, 98)}


def shape(name: str, registers: int) -> VitConfig:
    """S and B at full depth, g with two blocks, at a small grid."""
    made = presets.PRESETS[f"vit_{name}"](registers, image_size=SIDE)
    return replace(made, depth=2) if name == "giant2" else made


SHAPES = [(name, registers) for name in ("small", "base", "giant2") for registers in (0, 4)]


@torch.no_grad()
def randomise(module: nn.Module) -> None:
    """Every parameter away from zero and one: a forgotten or swapped tensor shows."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.copy_(noise * 0.05 + (0.5 if parameter.ndim == 1 else 0))


def backbone(config: VitConfig) -> VisionTransformer:
    made = VisionTransformer(config).eval()
    randomise(made)
    return made


def pictures() -> Iterator[tuple[str, Tensor]]:
    """``(what, [2, 3, H, W])`` for each of SIZES."""
    generator = torch.Generator().manual_seed(1)
    for what, (height, width) in SIZES.items():
        yield what, torch.randn(2, 3, height, width, generator=generator)


@torch.no_grad()
def tokens(model: VisionTransformer, images: Tensor) -> Tensor:
    """``[B, 1 + R + N, D]`` in the order of the other programs."""
    features = model(images)
    return torch.cat([features.cls[:, None], features.registers, features.patches], dim=1)


def gap(one: Tensor, two: Tensor) -> float:
    """The largest difference."""
    assert one.shape == two.shape
    return float((one - two).abs().max())
