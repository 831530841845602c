"""ONNX graphs give the backbone's features at any batch and image size."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

from dinov2_core.errors import UserError
from dinov2_core.model import export, weights
from dinov2_core.model.formats.onnx import Graph
from dinov2_core.model.preprocessing import Preprocessing
from dinov2_core.model.vision_transformer import VisionTransformer, VitConfig
from tests.model import peers

BATCHES_AND_SIZES = [(1, 56, 56), (3, 84, 84), (1, 42, 98), (3, 126, 14)]


def run(path: Path, images: Tensor) -> dict[str, Tensor]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, map(torch.from_numpy, session.run(None, {"images": images.numpy()})), strict=True))


def check(backbone: VisionTransformer, path: Path) -> None:
    for batch, height, width in BATCHES_AND_SIZES:
        images = torch.randn(batch, 3, height, width)
        with torch.no_grad():
            expected = backbone(images)
        found = run(path, images)
        assert peers.gap(found["cls"], expected.cls) < 1e-4
        assert peers.gap(found["patches"], expected.patches) < 1e-4
        assert ("registers" in found) is (backbone.config.registers > 0)
        if "registers" in found:
            assert peers.gap(found["registers"], expected.registers) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(("name", "registers"), peers.SHAPES)
def test_features_are_the_backbones(name: str, registers: int, tmp_path: Path) -> None:
    backbone = peers.backbone(peers.shape(name, registers))
    export.to_onnx(backbone, Preprocessing(56), tmp_path / "model.onnx")
    check(backbone, tmp_path / "model.onnx")


@pytest.mark.parametrize("opset", [18, 20])
def test_a_small_graph(opset: int, tmp_path: Path) -> None:
    backbone = peers.backbone(VitConfig(dim=64, depth=1, heads=2, image_size=56))
    path = tmp_path / "model.onnx"
    export.to_onnx(backbone, Preprocessing(56), path, opset)
    check(backbone, path)
    graph = onnx.load(path)
    assert [o.version for o in graph.opset_import if not o.domain] == [opset]
    (note,) = [p.value for p in graph.metadata_props if p.key == "dinov2"]
    assert json.loads(note) == weights.describe(backbone, Preprocessing(56))
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]


def test_weights_beside_the_graph_when_they_are_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dinov2_core.model.formats.onnx._ONE_FILE", 1000)
    backbone = peers.backbone(VitConfig(dim=64, depth=1, heads=1, image_size=56, registers=1))
    export.to_onnx(backbone, Preprocessing(56), tmp_path / "model.onnx")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    check(backbone, tmp_path / "model.onnx")


@pytest.mark.parametrize("registers", [0, 2])
@pytest.mark.parametrize("ffn", ["mlp", "swiglu"])
@pytest.mark.parametrize("layer_scale", [None, 0.1])
def test_the_function_that_is_exported_is_the_backbone(registers: int, ffn: str, layer_scale: float | None) -> None:
    config = VitConfig(64, 2, 2, patch=4, image_size=16, registers=registers, layer_scale=layer_scale)
    backbone = peers.backbone(replace(config, ffn=ffn))  # type: ignore[arg-type]
    for height, width in ((16, 16), (8, 32), (24, 24)):
        images = torch.randn(2, 3, height, width)
        with torch.no_grad():
            outputs, expected = Graph(backbone)(images), backbone(images)
        assert peers.gap(outputs[0], expected.cls) < 1e-5
        assert peers.gap(outputs[-1], expected.patches) < 1e-5


@pytest.mark.parametrize("opset", [11, 99])
def test_an_opset_that_is_not_written_is_refused(opset: int, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"opset {opset}"):
        export.to_onnx(peers.backbone(VitConfig(64, 1, 1, image_size=56)), Preprocessing(56), tmp_path / "x", opset)
    assert not list(tmp_path.iterdir())
