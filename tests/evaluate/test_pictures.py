"""Pictures show what they say: attention equals the plain product, colours follow parts, charts hold the counts."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import confusion_matrix

from dinov2_core import cli
from dinov2_core.evaluate import charts, pictures
from dinov2_core.model import export
from dinov2_core.model.preprocessing import Preprocessing
from dinov2_core.model.vision_transformer import VisionTransformer, VitConfig
from tests.evaluate.dense_trees import scene, write


@pytest.fixture(scope="module")
def backbone() -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(VitConfig(dim=32, depth=2, heads=4, patch=8, image_size=32, registers=2)).eval()


def test_attention_is_the_softmax_of_the_last_blocks_products(backbone: VisionTransformer) -> None:
    images = torch.randn(2, 3, 24, 40)
    found = pictures.attention_maps(backbone, images)
    assert found.shape == (2, 4, 3, 5)
    # The second picture alone, head by head.
    block = backbone.blocks[-1]
    kept: list[torch.Tensor] = []
    handle = block.attn.qkv.register_forward_hook(lambda _m, inputs, _o: kept.append(inputs[0]))
    with torch.no_grad():
        backbone(images[1:])
        handle.remove()
        q, k, _ = block.attn.qkv(kept[0]).chunk(3, dim=-1)
    for head in range(4):
        part = slice(8 * head, 8 * head + 8)
        weights = (q[0, part] @ k[:, part].T / 8**0.5).softmax(dim=0)[3:]
        torch.testing.assert_close(found[1, head].flatten(), weights, atol=1e-5, rtol=1e-4)


def test_equal_parts_have_equal_colours_and_the_subject_is_found() -> None:
    rng = np.random.default_rng(0)
    parts = rng.normal(size=(3, 16))
    label = np.zeros((2, 8, 8), int)
    label[:, 2:6, 2:4], label[:, 2:6, 4:6] = 1, 2
    parts[1:] += 6 * parts[1] / np.linalg.norm(parts[1])
    maps = (parts[label] + 0.01 * rng.normal(size=(2, 8, 8, 16))).astype(np.float32)
    colours, kept = pictures.pca_colours(maps)
    assert kept.all()
    # Three parts lie in a plane: only two directions mean anything.
    for part in range(3):
        assert colours[label == part][:, :2].std(axis=0).max() < 5
    colours, kept = pictures.pca_colours(maps, foreground=True)
    assert (kept == (label > 0)).all()
    assert (colours[label == 0] == 0).all()


def test_colours_of_features_with_fewer_than_three_directions() -> None:
    colours, _ = pictures.pca_colours(np.random.default_rng(0).normal(size=(1, 4, 4, 2)).astype(np.float32))
    assert colours.shape == (1, 4, 4, 3)


def test_overlays_keep_what_has_no_class() -> None:
    pixels = np.full((6, 6, 3), 100, np.uint8)
    classes = np.full((6, 6), 255, np.uint8)
    classes[:3] = 1
    found = pictures.segmentation_overlay(pixels, classes, 3)
    assert (found[3:] == 100).all()
    assert (found[:3] != 100).any()
    assert len(np.unique(pictures.class_colours(30), axis=0)) == 30


def test_the_ramp_is_monotonous_at_its_ends() -> None:
    found = pictures.ramp(np.array([[0.0, 1.0, np.nan]]))
    assert found[0, 0].tolist() == [48, 18, 59]
    assert found[0, 1].tolist() == [122, 4, 3]
    assert pictures.ramp(np.ones((2, 2))).shape == (2, 2, 3)


def test_a_row_begins_with_the_picture_and_goes_on_with_the_nearest() -> None:
    shades = [np.full((8, 8, 3), v, np.uint8) for v in (0, 100, 200)]
    features = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    found = pictures.neighbour_rows(shades, features, count=2, side=8)
    assert [int(found[0][4, x, 0]) for x in (4, 18, 32)] == [0, 100, 200]
    assert len(pictures.neighbour_rows(shades[:1], features[:1])) == 1


def test_the_confusion_matrix_equals_scikit_learns() -> None:
    truth, predicted = np.random.default_rng(0).integers(0, 4, (2, 50))
    counts = charts.confusion(predicted, truth, 5)
    assert (counts == confusion_matrix(truth, predicted, labels=range(5))).all()
    drawn = charts.confusion_svg(counts, ["a", "<b>", "c", "d", "e"])
    assert "&lt;b&gt;" in drawn
    assert f"a as a: {counts[0, 0]}" in drawn


def test_reliability_by_hand() -> None:
    found = charts.reliability([0.05, 0.95, 0.95, 0.85], [0, 1, 0, 1], bins=10)
    assert found.count.tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 1, 2]
    assert found.accuracy[9] == 0.5
    assert found.ece == pytest.approx((0.05 + 0.15 + 2 * 0.45) / 4)
    assert "expected gap 27.5 %" in charts.reliability_svg(found)
    with pytest.raises(ValueError, match="between 0 and 1"):
        charts.reliability([1.2], [1])


def test_look_writes_a_page_whose_files_exist(
    tmp_path: Path, backbone: VisionTransformer, capsys: pytest.CaptureFixture[str]
) -> None:
    export.to_safetensors(backbone, Preprocessing(32), tmp_path / "w.safetensors")
    for i in range(3):
        write(tmp_path / "in" / f"{i}<x>.png", scene(np.random.default_rng(i))[0])
    arguments = ["look", str(tmp_path / "in"), "--weights", str(tmp_path / "w.safetensors"), "--out"]
    assert cli.main([*arguments, str(tmp_path / "out"), "--size", "64"]) == 0
    text = (tmp_path / "out/index.html").read_text()
    files = re.findall(r'src="([^"]+)"', text)
    assert len(files) == 18
    assert all(Image.open(tmp_path / "out" / file).size[0] for file in files)
    assert "0&lt;x&gt;.png" in text
    assert "http" not in text
    (tmp_path / "in/0<x>.png").write_bytes(b"broken")
    assert cli.main([*arguments, str(tmp_path / "out")]) == 1
    assert "not a whole picture" in capsys.readouterr().err
    assert cli.main(["look", str(tmp_path / "out2"), *arguments[2:], str(tmp_path / "out")]) == 1
