"""The released shapes have the released numbers of parameters and interpolate positions as the released models do."""

from __future__ import annotations

import pytest
import torch

from dinov2_core.model import presets
from dinov2_core.model.vision_transformer import VisionTransformer

COUNTS = {
    "vit_small": (22_056_576, 22_058_112),
    "vit_base": (86_580_480, 86_583_552),
    "vit_large": (304_368_640, 304_372_736),
    "vit_giant2": (1_136_480_768, 1_136_486_912),
}


@pytest.mark.parametrize("name", presets.PRESETS)
def test_parameter_counts_are_the_released_ones(name: str) -> None:
    for registers, count in zip((0, 4), COUNTS[name], strict=True):
        with torch.device("meta"):
            model = VisionTransformer(presets.PRESETS[name](registers))
        assert sum(p.numel() for p in model.parameters()) == count


def test_the_giants_gate_has_4096_units() -> None:
    with torch.device("meta"):
        model = VisionTransformer(presets.vit_giant2())
    assert model.state_dict()["blocks.0.mlp.w12.weight"].shape == (8192, 1536)
    assert model.state_dict()["blocks.0.mlp.w3.weight"].shape == (1536, 4096)


@pytest.mark.parametrize("name", presets.PRESETS)
def test_positions_follow_the_registers(name: str) -> None:
    plain, registers = presets.PRESETS[name](0), presets.PRESETS[name](4)
    assert (plain.pos_offset, plain.pos_antialias) == (0.1, False)
    assert (registers.pos_offset, registers.pos_antialias) == (0.0, True)
    assert plain.dim // plain.heads == 64


def test_any_patch_and_image_size() -> None:
    made = presets.vit_small(patch=16, image_size=224)
    assert VisionTransformer(made).pos_embed.shape == (1, 1 + 14 * 14, 384)
