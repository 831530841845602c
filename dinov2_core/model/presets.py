"""The released shapes by name (paper, table 17). How they are trained is in the recipes; other shapes need no entry."""

from __future__ import annotations

from collections.abc import Callable

from dinov2_core.model.vision_transformer import VitConfig


def flavour(registers: int | bool) -> dict[str, float | bool]:
    """How the released models with or without registers interpolate positions, as fields of :class:`VitConfig`.

    Without registers: scale factor of (side + 0.1) / grid, no antialiasing. With: size and antialiasing
    (arXiv 2309.16588).
    """
    return {"pos_offset": 0.0, "pos_antialias": True} if registers else {"pos_offset": 0.1, "pos_antialias": False}


def vit_small(registers: int = 0, patch: int = 14, image_size: int = 518) -> VitConfig:
    """ViT-S: 384 wide, 12 blocks, 6 heads, GELU MLP; 22.1 million parameters at 14 and 518."""
    return _shape(384, 12, registers, patch, image_size)


def vit_base(registers: int = 0, patch: int = 14, image_size: int = 518) -> VitConfig:
    """ViT-B: 768 wide, 12 blocks, 12 heads, GELU MLP; 86.6 million parameters."""
    return _shape(768, 12, registers, patch, image_size)


def vit_large(registers: int = 0, patch: int = 14, image_size: int = 518) -> VitConfig:
    """ViT-L: 1024 wide, 24 blocks, 16 heads, GELU MLP; 304.4 million parameters."""
    return _shape(1024, 24, registers, patch, image_size)


def vit_giant2(registers: int = 0, patch: int = 14, image_size: int = 518) -> VitConfig:
    """ViT-g: 1536 wide, 40 blocks, 24 heads, SwiGLU of 4096 units; 1,136.5 million parameters."""
    return _shape(1536, 40, registers, patch, image_size, swiglu=True)


def _shape(dim: int, depth: int, registers: int, patch: int, image_size: int, *, swiglu: bool = False) -> VitConfig:
    return VitConfig(
        dim=dim,
        depth=depth,
        # Width of a head is 64 in all of them: attention kernels are fastest there (paper, section 5).
        heads=dim // 64,
        patch=patch,
        image_size=image_size,
        ffn="swiglu" if swiglu else "mlp",
        registers=registers,
        **flavour(registers),  # type: ignore[arg-type]
    )


PRESETS: dict[str, Callable[..., VitConfig]] = {f.__name__: f for f in (vit_small, vit_base, vit_large, vit_giant2)}
