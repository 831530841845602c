"""Weight files: what goes in comes out, equal weights are equal bytes, and differences are listed, never ignored."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch

from dinov2_core.errors import UserError
from dinov2_core.model import weights
from dinov2_core.model.preprocessing import Preprocessing, square
from dinov2_core.model.vision_transformer import VisionTransformer, VitConfig

CONFIG = VitConfig(dim=16, depth=1, heads=2, patch=4, image_size=16, registers=2)
INPUT = Preprocessing(16)


@pytest.fixture
def backbone() -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(CONFIG).eval()


def test_round_trip(backbone: VisionTransformer, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(weights.to_bytes(backbone, INPUT))
    loaded, preprocessing = weights.load(path)
    images = torch.randn(2, 3, 16, 16)
    assert loaded.config == CONFIG
    assert preprocessing == INPUT
    with torch.no_grad():
        assert torch.equal(loaded(images).cls, backbone(images).cls)


def test_equal_weights_are_equal_bytes(backbone: VisionTransformer) -> None:
    assert weights.to_bytes(backbone, INPUT) == weights.to_bytes(backbone, INPUT)


def test_every_difference_is_listed(backbone: VisionTransformer) -> None:
    state = backbone.state_dict()
    del state["norm.bias"]
    state["head.weight"] = torch.zeros(1)
    state["mask_token"] = torch.zeros(1, 8)
    with pytest.raises(UserError) as caught:
        weights.load_strict(backbone, state, where="file")
    for part in ("1 missing: norm.bias", "1 unexpected: head.weight", "mask_token is (1, 8), not (1, 16)"):
        assert part in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"junk", b"\x08\0\0\0\0\0\0\0{broken}", b"\xff" * 64])
def test_what_is_no_weight_file_is_refused(data: bytes) -> None:
    with pytest.raises(UserError, match="not a safetensors file"):
        weights.from_bytes(data, where="x")


def test_a_foreign_safetensors_file_is_refused() -> None:
    with pytest.raises(UserError, match="does not state its model"):
        weights.from_bytes(safetensors.torch.save({"a": torch.zeros(1)}), where="x")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.safetensors"):
        weights.load(tmp_path / "none.safetensors")


def test_square_keeps_the_centre_of_a_wide_picture() -> None:
    pixels = torch.zeros(10, 30, 3, dtype=torch.uint8).numpy()
    pixels[:, 10:20] = 200
    out = square(pixels, 10)
    assert out.shape == (3, 10, 10)
    assert out.min() == 200


def test_square_of_a_square_is_itself() -> None:
    pixels = torch.randint(0, 256, (8, 8, 3), dtype=torch.uint8).numpy()
    assert (square(pixels, 8) == pixels.transpose(2, 0, 1)).all()
