"""Hugging Face folders, both ways, against transformers: the same features at any size, square or not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file

from dinov2_core.errors import UserError
from dinov2_core.model import export, weights
from dinov2_core.model.preprocessing import Preprocessing
from dinov2_core.model.vision_transformer import VitConfig
from tests.model import peers

SMALL = VitConfig(dim=64, depth=2, heads=1, image_size=56, pos_offset=0.0)


def theirs(config: VitConfig) -> transformers.PreTrainedModel:
    keywords = {
        "hidden_size": config.dim,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "image_size": config.image_size,
        "patch_size": config.patch,
        "use_swiglu_ffn": config.ffn == "swiglu",
    }
    if config.registers:
        stated = transformers.Dinov2WithRegistersConfig(num_register_tokens=config.registers, **keywords)
        model = transformers.Dinov2WithRegistersModel(stated)
    else:
        model = transformers.Dinov2Model(transformers.Dinov2Config(**keywords))
    peers.randomise(model)
    return model.eval()


@torch.no_grad()
def their_tokens(model: transformers.PreTrainedModel, images: torch.Tensor) -> torch.Tensor:
    return model(images).last_hidden_state


@pytest.mark.parametrize(("name", "registers"), peers.SHAPES)
def test_round_trip(name: str, registers: int, tmp_path: Path) -> None:
    there = theirs(peers.shape(name, registers))
    there.save_pretrained(tmp_path / "in")
    ours, preprocessing = weights.load(tmp_path / "in")
    assert ours.config.registers == registers
    export.to_huggingface(ours, preprocessing, tmp_path / "out")
    back = transformers.AutoModel.from_pretrained(tmp_path / "out").eval()
    assert type(back) is type(there)
    for what, images in peers.pictures():
        expected = their_tokens(there, images)
        assert peers.gap(peers.tokens(ours, images), expected) < 1e-4, what
        assert peers.gap(their_tokens(back, images), expected) < 1e-4, what


def test_what_is_written_is_what_the_released_folders_hold(tmp_path: Path) -> None:
    there = theirs(replace(SMALL, ffn="swiglu"))
    there.save_pretrained(tmp_path / "in")
    ours, preprocessing = weights.load(tmp_path / "in")
    export.to_huggingface(ours, preprocessing, tmp_path / "out")
    one, two = (load_file(tmp_path / folder / "model.safetensors") for folder in ("in", "out"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[k], two[k]) for k in one)


@pytest.mark.parametrize("ffn", ["mlp", "swiglu"])
def test_the_newer_names_inside_transformers_are_read_too(ffn: str, tmp_path: Path) -> None:
    there = theirs(replace(SMALL, ffn=ffn))
    there.save_pretrained(tmp_path)
    plain, _ = weights.load(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(there.state_dict(), tmp_path / "pytorch_model.bin")
    newer, _ = weights.load(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), newer.parameters(), strict=True))


def test_a_folder_in_shards(tmp_path: Path) -> None:
    there = theirs(SMALL)
    there.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    images = torch.randn(1, 3, 56, 56)
    assert peers.gap(peers.tokens(weights.load(tmp_path)[0], images), their_tokens(there, images)) < 1e-4


def test_the_file_inside_a_folder_stands_for_the_folder(tmp_path: Path) -> None:
    theirs(SMALL).save_pretrained(tmp_path)
    assert weights.load(tmp_path / "model.safetensors")[0].config == weights.load(tmp_path)[0].config
    (tmp_path / "config.json").unlink()
    with pytest.raises(UserError, match="without its config"):
        weights.load(tmp_path / "model.safetensors")


@pytest.mark.parametrize("registers", [0, 4])
def test_our_flavour_of_positions_survives_a_folder(registers: int, tmp_path: Path) -> None:
    ours = peers.backbone(peers.shape("giant2", registers))
    export.to_huggingface(ours, Preprocessing(56), tmp_path)
    back, preprocessing = weights.load(tmp_path)
    assert back.config == ours.config
    assert preprocessing == Preprocessing(56)
    for what, images in peers.pictures():
        assert peers.gap(peers.tokens(back, images), peers.tokens(ours, images)) == 0, what


def test_where_the_flavours_of_positions_coincide(tmp_path: Path) -> None:
    """transformers knows no offset of 0.1: without registers only the stored grid gives the released features."""
    for registers in (0, 4):
        ours = peers.backbone(peers.shape("small", registers))
        export.to_huggingface(ours, Preprocessing(56), tmp_path / str(registers))
        there = transformers.AutoModel.from_pretrained(tmp_path / str(registers)).eval()
        same = {w: peers.gap(peers.tokens(ours, x), their_tokens(there, x)) < 1e-4 for w, x in peers.pictures()}
        assert same == {"stored grid": True, "other square": registers > 0, "not square": registers > 0}
        assert export.agrees(ours, "huggingface") is (registers > 0)


def test_a_backbone_without_layer_scale(tmp_path: Path) -> None:
    ours = peers.backbone(replace(SMALL, layer_scale=None))
    export.to_huggingface(ours, Preprocessing(56), tmp_path)
    there = transformers.AutoModel.from_pretrained(tmp_path).eval()
    images = torch.randn(1, 3, 42, 70)
    assert peers.gap(peers.tokens(ours, images), their_tokens(there, images)) < 1e-4


def test_the_image_processor_does_what_ours_does(tmp_path: Path) -> None:
    preprocessing = Preprocessing(56, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.1))
    export.to_huggingface(peers.backbone(SMALL), preprocessing, tmp_path)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    generator = np.random.default_rng(0)
    # Where halving meets whole pixels; elsewhere theirs rounds the crop to pixels after resizing, ours does not.
    for height, width, bound in ((56, 56, 1e-5), (112, 224, 2 / 255 / 0.1)):
        # A smooth picture: the two resize by different libraries, a level or two apart here and there.
        coarse = Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        pixels = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
        there = processor(Image.fromarray(pixels), return_tensors="pt")["pixel_values"]
        ours = preprocessing.normalize(torch.from_numpy(preprocessing.square(pixels))[None])
        assert peers.gap(ours, there) < bound


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "vit"}, "model type 'vit'"),
        ({"hidden_act": "relu"}, "hidden_act 'relu'"),
        ({"layer_norm_eps": 1e-5}, "layer_norm_eps"),
        ({"qkv_bias": False}, "qkv_bias"),
        ({"num_hidden_layers": 3}, "missing: blocks.2.norm1.weight"),
        ({"num_hidden_layers": 1}, "unexpected: blocks.1.attn.proj.bias"),
        ({"image_size": 70}, r"pos_embed is \(1, 17, 64\), not \(1, 26, 64\)"),
        ({"image_size": [56, 70]}, "not one square's"),
        ({"num_attention_heads": 5}, "not a multiple of 5 heads"),
        ({"num_attention_heads": 0}, "config.json"),
        ({"hidden_size": "wide"}, "config.json"),
        ({"hidden_size": -64}, "sizes must be positive"),
        ({"num_hidden_layers": 0}, "sizes must be positive"),
    ],
)
def test_a_folder_that_we_would_not_reproduce_is_refused(change: dict[str, object], said: str, tmp_path: Path) -> None:
    theirs(SMALL).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=said):
        weights.load(tmp_path)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a Hugging Face folder"):
        weights.load(tmp_path)


def test_a_ratio_that_transformers_does_not_know_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="whole feed-forward ratios"):
        export.to_huggingface(peers.backbone(replace(SMALL, ffn_ratio=2.5)), Preprocessing(56), tmp_path)
