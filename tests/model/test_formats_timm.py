"""timm's state dicts, both ways, against timm: the same features at any size, square or not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from timm.layers import SwiGLU

from dinov2_core.errors import UserError
from dinov2_core.model import export, weights
from dinov2_core.model.formats.timm import arguments
from dinov2_core.model.vision_transformer import VitConfig
from tests.model import peers

TIMM = {"pos_offset": 0.0, "pos_antialias": True}
SMALL = VitConfig(dim=64, depth=2, heads=1, image_size=56, **TIMM)  # type: ignore[arg-type]


def theirs(name: str, registers: int) -> torch.nn.Module:
    """The registered model as timm ships it, at a small grid; the giant with two blocks."""
    keywords = {"depth": 2} if name == "giant" else {}
    full = f"vit_{name}_patch14{'_reg4' if registers else ''}_dinov2"
    model = timm.create_model(full, num_classes=0, img_size=peers.SIDE, dynamic_img_size=True, **keywords)
    peers.randomise(model)
    return model.eval()


@torch.no_grad()
def their_tokens(model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    return model.forward_features(images)  # type: ignore[operator]


@pytest.mark.parametrize("name", ["small", "base", "giant"])
@pytest.mark.parametrize("registers", [0, 4])
def test_round_trip(name: str, registers: int, tmp_path: Path) -> None:
    there = theirs(name, registers)
    torch.save(there.state_dict(), tmp_path / "timm.pth")
    ours, _ = weights.load(tmp_path / "timm.pth")
    assert ours.config == replace(peers.shape({"giant": "giant2"}.get(name, name), registers), **TIMM)
    export.to_timm(ours, tmp_path / "out.safetensors")
    written = load_file(tmp_path / "out.safetensors")
    for what, images in peers.pictures():
        assert peers.gap(peers.tokens(ours, images), their_tokens(there, images)) < 1e-4, what
    assert written.keys() == there.state_dict().keys()
    there.load_state_dict(written, strict=True)
    for what, images in peers.pictures():
        assert peers.gap(peers.tokens(ours, images), their_tokens(there, images)) < 1e-4, what


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        replace(SMALL, patch=8, ffn_ratio=2.5, layer_scale=None),
        replace(SMALL, heads=2, registers=2, ffn="swiglu"),
        replace(SMALL, channels=1, ffn="swiglu", depth=1),
    ],
)
def test_the_stated_call_builds_the_model(config: VitConfig, tmp_path: Path) -> None:
    ours = peers.backbone(config)
    path = tmp_path / "out.safetensors"
    call = export.to_timm(ours, path)
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"timm": call}
    name, keywords = arguments(config)
    assert call.startswith(f"timm.create_model('{name}', img_size=56, ")
    there = timm.create_model(name, **keywords).eval()
    there.load_state_dict(load_file(path), strict=True)
    images = torch.randn(1, config.channels, 56, 112)
    assert peers.gap(peers.tokens(ours, images), their_tokens(there, images)) < 1e-4
    assert weights.load(path, heads=config.heads)[0].config == config


def test_gates_in_two_matrices(tmp_path: Path) -> None:
    there = timm.create_model(
        "vit_small_patch14_dinov2",
        num_classes=0,
        img_size=56,
        dynamic_img_size=True,
        embed_dim=64,
        depth=2,
        num_heads=1,
        mlp_layer=SwiGLU,
        act_layer=torch.nn.SiLU,
        mlp_ratio=2.75,
    ).eval()
    peers.randomise(there)
    torch.save(there.state_dict(), tmp_path / "timm.pth")
    ours, _ = weights.load(tmp_path / "timm.pth")
    images = torch.randn(1, 3, 56, 70)
    assert ours.config.ffn == "swiglu"
    assert peers.gap(peers.tokens(ours, images), their_tokens(there, images)) < 1e-4


def test_the_mask_token_that_timm_does_not_keep_is_zeros(tmp_path: Path) -> None:
    export.to_timm(peers.backbone(SMALL), tmp_path / "out.safetensors")
    assert not weights.load(tmp_path / "out.safetensors")[0].mask_token.any()


def test_where_the_flavours_of_positions_coincide(tmp_path: Path) -> None:
    """timm always antialiases: of the released models, those with registers agree at every size."""
    for registers in (0, 4):
        ours = peers.backbone(peers.shape("giant2", registers))
        there = theirs("giant", registers)
        export.to_timm(ours, tmp_path / "out.safetensors")
        there.load_state_dict(load_file(tmp_path / "out.safetensors"))
        same = {w: peers.gap(peers.tokens(ours, x), their_tokens(there, x)) < 1e-4 for w, x in peers.pictures()}
        assert same == {"stored grid": True, "other square": registers > 0, "not square": registers > 0}
        assert export.agrees(ours, "timm") is (registers > 0)


def test_a_classifier_is_unexpected(tmp_path: Path) -> None:
    export.to_timm(peers.backbone(SMALL), tmp_path / "out.safetensors")
    tensors = load_file(tmp_path / "out.safetensors") | {"head.weight": torch.zeros(10, 64)}
    torch.save(tensors, tmp_path / "timm.pth")
    with pytest.raises(UserError, match=r"1 unexpected: head\.weight"):
        weights.load(tmp_path / "timm.pth")


def test_half_a_gate_is_listed(tmp_path: Path) -> None:
    export.to_timm(peers.backbone(SMALL), tmp_path / "out.safetensors")
    tensors = load_file(tmp_path / "out.safetensors") | {"blocks.1.mlp.fc1_x.weight": torch.zeros(10, 64)}
    torch.save(tensors, tmp_path / "timm.pth")
    with pytest.raises(UserError, match=r"unexpected: blocks\.1\.mlp\.fc1_x\.weight"):
        weights.load(tmp_path / "timm.pth")
