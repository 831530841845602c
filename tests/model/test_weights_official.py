"""The public reference's files: recognised by content, shape inferred, chunks undone, every difference listed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dinov2_core.errors import UserError
from dinov2_core.model import presets, shape, weights
from dinov2_core.model.heads import HeadConfig
from dinov2_core.model.mismatch import load_strict
from dinov2_core.model.preprocessing import Preprocessing
from dinov2_core.model.vision_transformer import VisionTransformer, VitConfig
from dinov2_core.train.objective import build_network
from tests.model import peers

SMALL = VitConfig(dim=64, depth=4, heads=1, image_size=56)
WITH_REGISTERS = replace(SMALL, registers=4, ffn="swiglu", pos_offset=0.0, pos_antialias=True)
DINO, IBOT = HeadConfig(prototypes=32, hidden=24, bottleneck=16), HeadConfig(prototypes=48, hidden=24, bottleneck=8)


def equal(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def chunked(state: dict[str, Tensor], size: int) -> dict[str, Tensor]:
    """The names of a model built in chunks: chunk number, then block number counted from the first block of all."""

    def name(key: str) -> str:
        before, found, rest = key.partition("blocks.")
        return f"{before}blocks.{int(rest.split('.')[0]) // size}.{rest}" if found else key

    return {name(k): v for k, v in state.items()}


def network(config: VitConfig, *, tied: bool = False) -> dict[str, Tensor]:
    made = build_network(config, DINO, None if tied else IBOT)
    peers.randomise(made)
    return made.state_dict()


@pytest.mark.parametrize(("name", "registers"), peers.SHAPES)
def test_a_hub_file(name: str, registers: int, tmp_path: Path) -> None:
    ours = peers.backbone(peers.shape(name, registers))
    torch.save(ours.state_dict(), tmp_path / "hub.pth")
    loaded, preprocessing = weights.load(tmp_path / "hub.pth")
    assert loaded.config == ours.config
    assert preprocessing == Preprocessing(56)
    assert not loaded.training
    assert equal(loaded.state_dict(), ours.state_dict())
    assert all(p.requires_grad for p in loaded.parameters())


def test_released_positions_and_input_size(tmp_path: Path) -> None:
    released = VisionTransformer(presets.vit_small())
    torch.save(released.state_dict(), tmp_path / "hub.pth")
    loaded, preprocessing = weights.load(tmp_path / "hub.pth")
    assert loaded.pos_embed.shape == (1, 1370, 384)
    assert loaded.config == presets.vit_small()
    assert preprocessing == Preprocessing(224)


@pytest.mark.parametrize("config", [SMALL, WITH_REGISTERS, replace(SMALL, layer_scale=None, patch=8)])
def test_official_names_in_safetensors_without_a_configuration(config: VitConfig, tmp_path: Path) -> None:
    ours = peers.backbone(config)
    safetensors.torch.save_file(ours.state_dict(), tmp_path / "bare.safetensors")
    loaded, _ = weights.load(tmp_path / "bare.safetensors")
    assert loaded.config == config
    assert equal(loaded.state_dict(), ours.state_dict())


@pytest.mark.parametrize("chunk", [0, 1, 2, 4])
@pytest.mark.parametrize("config", [SMALL, WITH_REGISTERS])
def test_a_teachers_checkpoint(config: VitConfig, chunk: int, tmp_path: Path) -> None:
    state = network(config)
    saved = chunked(state, chunk) if chunk else state
    torch.save({"teacher": saved, "iteration": 1249}, tmp_path / "teacher_checkpoint.pth")
    loaded, _ = weights.load(tmp_path / "teacher_checkpoint.pth")
    assert loaded.config == config
    assert equal({f"backbone.{k}": v for k, v in loaded.state_dict().items()}, only(state, "backbone."))
    assert equal(weights.load_training_state(tmp_path / "teacher_checkpoint.pth"), state)


def only(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k: v for k, v in state.items() if k.startswith(prefix)}


@pytest.mark.parametrize("tied", [False, True])
def test_the_network_that_a_checkpoint_fits(tied: bool, tmp_path: Path) -> None:
    torch.save({"teacher": network(WITH_REGISTERS, tied=tied)}, tmp_path / "teacher.pth")
    state = weights.load_training_state(tmp_path / "teacher.pth")
    model, dino, ibot = shape.of_training_state(state)
    assert (model, dino, ibot) == (WITH_REGISTERS, DINO, None if tied else IBOT)
    assert dino is not None
    load_strict(build_network(model, dino, ibot), state, where="teacher")


def test_the_names_of_data_parallel_training(tmp_path: Path) -> None:
    ours = peers.backbone(SMALL)
    torch.save({"module." + k: v for k, v in ours.state_dict().items()}, tmp_path / "hub.pth")
    assert equal(weights.load(tmp_path / "hub.pth")[0].state_dict(), ours.state_dict())


@pytest.mark.parametrize("kind", ["ours", "hub"])
def test_a_backbone_alone_is_a_training_state_without_heads(kind: str, tmp_path: Path) -> None:
    ours = peers.backbone(SMALL)
    path = tmp_path / "weights"
    if kind == "ours":
        path.write_bytes(weights.to_bytes(ours, Preprocessing(56)))
    else:
        torch.save(ours.state_dict(), path)
    state = weights.load_training_state(path)
    assert equal(state, {f"backbone.{k}": v for k, v in ours.state_dict().items()})
    assert shape.of_training_state(state) == (SMALL, None, None)


def test_half_precision_is_loaded_as_float32(tmp_path: Path) -> None:
    ours = peers.backbone(SMALL)
    torch.save({k: v.bfloat16() for k, v in ours.state_dict().items()}, tmp_path / "hub.pth")
    loaded, _ = weights.load(tmp_path / "hub.pth")
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}


def test_what_was_loaded_can_be_trained(tmp_path: Path) -> None:
    path = tmp_path / "ours.safetensors"
    path.write_bytes(weights.to_bytes(peers.backbone(SMALL), Preprocessing(56)))
    loaded, _ = weights.load(path)
    loaded(torch.randn(1, 3, 56, 56)).cls.sum().backward()
    before = loaded.cls_token.detach().clone()
    torch.optim.SGD(loaded.parameters(), lr=0.1).step()
    assert not torch.equal(loaded.cls_token, before)


def test_heads_that_are_not_64_wide_are_asked_for(tmp_path: Path) -> None:
    config = VitConfig(dim=96, depth=1, heads=3, patch=4, image_size=32)
    ours = peers.backbone(config)
    torch.save(ours.state_dict(), tmp_path / "hub.pth")
    with pytest.raises(UserError, match=r"width 96 is not a multiple of 64.*give the heads"):
        weights.load(tmp_path / "hub.pth")
    with pytest.raises(UserError, match="does not divide into 5 heads"):
        weights.load(tmp_path / "hub.pth", heads=5)
    assert weights.load(tmp_path / "hub.pth", heads=3)[0].config == config


@settings(deadline=None, max_examples=40)
@given(
    heads=st.integers(1, 3),
    depth=st.integers(1, 3),
    patch=st.integers(1, 5),
    grid=st.integers(1, 4),
    channels=st.integers(1, 4),
    registers=st.integers(0, 5),
    gated=st.booleans(),
    units=st.integers(1, 40),
    scaled=st.booleans(),
)
def test_any_shape_is_inferred(
    heads: int,
    depth: int,
    patch: int,
    grid: int,
    channels: int,
    registers: int,
    gated: bool,
    units: int,
    scaled: bool,
) -> None:
    dim = 64 * heads
    config = VitConfig(
        dim,
        depth,
        heads,
        patch,
        grid * patch,
        channels,
        "swiglu" if gated else "mlp",
        shape.ratio(dim, units * 3),
        registers,
        1e-5 if scaled else None,
    )
    with torch.device("meta"):
        own = VisionTransformer(config).state_dict()
    found = shape.infer(own, pos_offset=0.1, pos_antialias=False, where="x")
    # Several ratios round to one SwiGLU; the tensors are what has to fit.
    assert replace(found, ffn_ratio=config.ffn_ratio) == config
    with torch.device("meta"):
        load_strict(VisionTransformer(found), own, where="x")


@pytest.mark.parametrize(
    ("drop", "add", "said"),
    [
        (["norm.bias"], {}, "1 missing: norm.bias"),
        (["blocks.2.attn.qkv.weight", "norm.weight"], {}, "2 missing: blocks.2.attn.qkv.weight, norm.weight"),
        ([], {"head.weight": (3, 64)}, "1 unexpected: head.weight"),
        (["cls_token"], {}, "1 missing: cls_token; 62 present"),
        (["pos_embed"], {"pos_embed": (1, 18, 64)}, "pos_embed holds 18 positions: not one and a square grid"),
        (["norm.weight"], {"norm.weight": (63,)}, "1 other shape: norm.weight is (63,), not (64,)"),
        (["patch_embed.proj.weight"], {"patch_embed.proj.weight": (64, 3, 14, 7)}, "no square patches"),
    ],
)
def test_a_wrong_or_partial_file_is_an_error_that_lists(
    drop: list[str], add: dict[str, tuple[int, ...]], said: str, tmp_path: Path
) -> None:
    tensors = {k: v for k, v in peers.backbone(SMALL).state_dict().items() if k not in drop}
    torch.save(tensors | {k: torch.zeros(v) for k, v in add.items()}, tmp_path / "hub.pth")
    with pytest.raises(UserError) as caught:
        weights.load(tmp_path / "hub.pth")
    assert said in str(caught.value)
    assert "hub.pth" in str(caught.value)


def test_long_lists_are_shortened_with_their_counts(tmp_path: Path) -> None:
    tensors = peers.backbone(SMALL).state_dict()
    kept = {k: v for k, v in tensors.items() if not k.startswith(("blocks.1.", "blocks.2."))}
    torch.save(kept, tmp_path / "hub.pth")
    with pytest.raises(UserError, match=r"28 missing: blocks\.1\.norm1\.weight, .* and 16 more") as caught:
        weights.load(tmp_path / "hub.pth")
    assert len(str(caught.value)) < 800


def test_another_network_is_told_by_what_it_lacks(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(3, 3).state_dict(), tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"missing: cls_token, pos_embed.*2 present: bias, weight"):
        weights.load(tmp_path / "other.pth")


def test_parts_of_training_that_are_not_the_teacher_are_unexpected(tmp_path: Path) -> None:
    torch.save({"teacher": network(SMALL) | {"dino_loss.center": torch.zeros(1)}}, tmp_path / "teacher.pth")
    for read in (weights.load, weights.load_training_state):
        with pytest.raises(UserError, match=r"1 unexpected: dino_loss\.center"):
            read(tmp_path / "teacher.pth")


@pytest.mark.parametrize("name", [*shape.ESSENTIAL, "register_tokens", "blocks.0.mlp.w3.weight", "blocks.999999999.x"])
@pytest.mark.parametrize("size", [(), (0,), (1, 0), (0, 0, 0), (2, 3, 0, 0)])
def test_tensors_of_absurd_shapes_are_refused(name: str, size: tuple[int, ...], tmp_path: Path) -> None:
    state = peers.backbone(WITH_REGISTERS).state_dict() | {name: torch.zeros(size)}
    torch.save(state, tmp_path / "hub.pth")
    with pytest.raises(UserError):
        weights.load(tmp_path / "hub.pth")


def test_an_incomplete_head_is_named(tmp_path: Path) -> None:
    state = network(SMALL)
    del state["ibot_head.last_layer.weight_v"]
    with pytest.raises(UserError, match=r"1 missing: ibot_head\.last_layer\.weight_v"):
        shape.of_training_state(state)
