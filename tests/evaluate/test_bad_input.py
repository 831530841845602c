"""What a wrong input is told, by one protocol of each kind: one line with the file and the form that is expected."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from dinov2_core import cli
from dinov2_core.errors import UserError
from dinov2_core.evaluate.datasets import openers
from dinov2_core.evaluate.datasets.labelled import LabelledSet, Picture, Split
from dinov2_core.model import weights
from dinov2_core.model.preprocessing import Preprocessing
from dinov2_core.model.vision_transformer import VisionTransformer, VitConfig
from tests.evaluate import dense_trees
from tests.evaluate.datasets.test_retrieval_sets import revisited_tree
from tests.evaluate.test_evaluation import tree

HEAD = {"steps": 3, "batch": 2, "warmup": 1}
SETTINGS = {
    "knn": {"k": [3]},
    "linear": {"steps": 3, "batch": 4},
    "segmentation": {"size": 32, "augment": False, "schedule": HEAD},
    "depth": {"heads": ["linear"], "settings": {"size": 32, "augment": False, "bins": 8, "schedule": HEAD}},
    "revisited": {"crop_queries": False},
}


def labelled(root: Path) -> tuple[str, Path]:
    return str(tree(root, count=3)), root / "test/red/1.png"


def masks(root: Path) -> tuple[str, Path]:
    return f"masks={dense_trees.masks(root, 2)}", root / "images/val/1.png"


def castle(root: Path) -> tuple[str, Path]:
    return f"castle={dense_trees.castle(root, 5)}", root / "Images/Image_0005.pgm"


def revisited(root: Path) -> tuple[str, Path]:
    return f"roxford5k={revisited_tree(root)}", root / "roxford5k/jpg/all_souls_000003.jpg"


Make = Callable[[Path], tuple[str, Path]]
KINDS = [
    pytest.param("knn", labelled, id="knn"),
    pytest.param("linear", labelled, id="linear"),
    pytest.param("segmentation", masks, id="segmentation"),
    pytest.param("depth", castle, id="depth"),
    pytest.param("revisited", revisited, id="retrieval"),
]


def network(*, broken: bool = False) -> bytes:
    torch.manual_seed(0)
    made = VisionTransformer(VitConfig(dim=16, depth=2, heads=2, patch=4, image_size=16, layer_scale=None))
    if broken:
        with torch.no_grad():
            made.norm.weight[0] = float("nan")
    return weights.to_bytes(made, Preprocessing(16))


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    (tmp_path / "settings.yaml").write_text(json.dumps(SETTINGS))
    (tmp_path / "w.safetensors").write_bytes(network())

    def of(protocol: str, data: str, *more: str, file: str = "w.safetensors") -> tuple[int, str]:
        line = ["evaluate", "--weights", str(tmp_path / file), "--protocol", protocol, "--data", data, "--no-pictures"]
        line += ["--out", str(tmp_path / "out"), "--cache", str(tmp_path / "c")]
        code = cli.main([*line, "--settings", str(tmp_path / "settings.yaml"), *more])
        return code, capsys.readouterr().err

    return of


@pytest.mark.parametrize(("protocol", "make"), KINDS)
def test_a_corrupt_test_picture_is_named_and_never_left_out(
    protocol: str, make: Make, run: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    data, file = make(tmp_path / "set")
    file.write_bytes(file.read_bytes()[:40])
    code, said = run(protocol, data)
    assert code == 1
    assert str(file) in said
    assert "not a whole picture" in said
    assert not (tmp_path / "out/scores.json").exists()


@pytest.mark.parametrize(("protocol", "make"), KINDS)
def test_features_that_are_no_numbers_are_an_error_that_names_a_picture(
    protocol: str, make: Make, run: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    (tmp_path / "nan.safetensors").write_bytes(network(broken=True))
    code, said = run(protocol, make(tmp_path / "set")[0], file="nan.safetensors")
    assert code == 1
    assert "not finite" in said
    assert str(tmp_path / "set") in said
    assert "load them in float32" in said


@pytest.mark.parametrize(("protocol", "make"), KINDS)
def test_a_checkpoint_of_another_architecture_and_a_size_off_the_grid_are_told_before_anything_runs(
    protocol: str, make: Make, run: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    data, _ = make(tmp_path / "set")
    save_file({"conv1.weight": torch.zeros(64, 3, 7, 7), "fc.bias": torch.zeros(10)}, tmp_path / "resnet.safetensors")
    code, said = run(protocol, data, file="resnet.safetensors")
    assert code == 1
    assert str(tmp_path / "resnet.safetensors") in said
    assert said.count("\n") == 1
    code, said = run(protocol, data, "--size", "18")
    assert code == 1
    assert "18 pixels are not a multiple of the patch size 4" in said
    assert "use 16" in said
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(("protocol", "make"), KINDS)
def test_pictures_of_different_sizes_are_no_trouble(
    protocol: str, make: Make, run: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    data, file = make(tmp_path / "set")
    if protocol in ("segmentation", "depth"):
        target = {"segmentation": "masks/val/1.png", "depth": "Depth/Depth_0005.bin"}[protocol]
        grown = np.kron(np.asarray(Image.open(file)), np.ones((2, 1) if protocol == "depth" else (2, 1, 1), np.uint8))
        Image.fromarray(grown).save(file)
        # Only the picture has grown: the target that does not fit is named.
        code, said = run(protocol, data)
        assert (code, str(tmp_path / "set" / target) in said) == (1, True)
        if protocol == "depth":
            depth = np.full((80, 50), 16_384, "<u2").tobytes()
            (tmp_path / "set" / target).write_bytes(np.array([80, 50], "<u4").tobytes() + depth)
        else:
            mask = np.kron(np.asarray(Image.open(tmp_path / "set" / target)), np.ones((2, 1), np.uint8))
            Image.fromarray(mask).save(tmp_path / "set" / target)
    else:
        Image.fromarray(np.zeros((7, 90, 3), np.uint8)).save(file)
    assert run(protocol, data)[0] == 0


def test_a_label_outside_the_list_is_named_with_its_picture() -> None:
    pictures = (Picture("a.png", b""), Picture("b.png", b""))
    train, test = Split("train", pictures, np.array([0, 1])), Split("test", pictures, np.array([0, 2]))
    with pytest.raises(UserError, match=r"label 2 of b\.png is outside 0 to 1"):
        LabelledSet("set", ("cat", "dog"), train, test)


def test_a_label_outside_the_list_of_masks_and_of_a_gallery_names_the_file(
    run: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    data, _ = masks(tmp_path / "m")
    Image.fromarray(np.full((48, 64), 9, np.uint8)).save(tmp_path / "m/masks/val/0.png")
    code, said = run("segmentation", data)
    assert (code, "label 9 is none of" in said, str(tmp_path / "m/masks/val/0.png") in said) == (1, True, True)
    data, _ = revisited(tmp_path / "r")
    truth = {"imlist": ["all_souls_000000"], "qimlist": ["all_souls_query"]}
    truth["gnd"] = [{"bbx": [0, 0, 9, 9], "easy": [5], "hard": [], "junk": []}]  # type: ignore[list-item]
    (tmp_path / "r/roxford5k/gnd_roxford5k.json").write_text(json.dumps(truth))
    code, said = run("revisited", data)
    assert (code, "an index lies outside the 1 pictures" in said, "gnd_roxford5k.json" in said) == (1, True, True)


@pytest.mark.parametrize(("name", "below"), [("folder", "train/void"), ("clips", "train/void")])
def test_a_class_without_anything_in_it_is_named(name: str, below: str, tmp_path: Path) -> None:
    tree(tmp_path, count=1)
    (tmp_path / "val/red").mkdir(parents=True)
    if name == "clips":
        for label in ("blue", "red"):
            (tmp_path / "train" / label / "0.avi").touch()
    (tmp_path / below).mkdir()
    with pytest.raises(UserError, match="a class without") as error:
        openers.load(name, tmp_path)
    assert error.value.where.endswith("void")
