"""Corruptions, and the sets that share ImageNet's classes, on tiny trees in the official layouts."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from scipy.ndimage import gaussian_filter

from dinov2_core.errors import UserError
from dinov2_core.evaluate import evaluation
from dinov2_core.evaluate.cache import FeatureCache
from dinov2_core.evaluate.corruptions import SEVERITIES, corrupt
from dinov2_core.evaluate.datasets import imagenet
from dinov2_core.evaluate.protocol import Context
from dinov2_core.evaluate.robustness import right
from tests.evaluate.test_evaluation import model, tree

WNIDS = ("n01440764", "n01443537", "n02000000")


def picture(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(path)


def small_imagenet(root: Path, *, devkit: bool = False) -> Path:
    for i, wnid in enumerate(WNIDS):
        picture(root / "train" / wnid / f"{wnid}_1.JPEG", i)
        below = "val" if devkit else f"val/{wnid}"
        picture(root / below / f"ILSVRC2012_val_0000000{3 - i}.JPEG", i + 10)
    return root


def photo(side: int) -> np.ndarray:
    """Detail of every size, as photographs have it."""
    rng, total = np.random.default_rng(0), np.zeros((side, side, 3))
    for sigma in (0.5, 1, 2, 4, 8):
        layer = gaussian_filter(rng.normal(size=total.shape), (sigma, sigma, 0), mode="wrap")
        total += layer / layer.std()
    return (127 + 25 * total).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("side", [32, 64, 128])
@pytest.mark.parametrize("name", SEVERITIES)
def test_a_corruption_is_deterministic_and_grows_with_severity(name: str, side: int) -> None:
    clean = photo(side)
    assert np.array_equal(corrupt(clean, name, 3, seed=1), corrupt(clean, name, 3, seed=1))

    def away(severity: int) -> float:
        made = [corrupt(clean, name, severity, seed=seed) for seed in range(6)]
        assert made[0].shape == clean.shape
        if name == "fog":
            # Fog is as bright at every severity; what is lost is the picture below it.
            return float(np.mean([1 - np.corrcoef(m.ravel(), clean.ravel())[0, 1] for m in made]))
        return float(np.mean([np.abs(m.astype(float) - clean).mean() for m in made]))

    found = [away(severity) for severity in (1, 2, 3, 4, 5)]
    assert found[0] > 0
    # Six draws are noisy, so neighbours are compared with some room.
    assert all(one < 1.1 * two for one, two in pairwise(found)), found
    assert 1.2 * found[0] < found[4], found
    with pytest.raises(ValueError, match="outside 1 to 5"):
        corrupt(clean, name, 6)


def test_there_are_fifteen() -> None:
    assert len(SEVERITIES) == 15


def test_class_folders_and_devkit_give_the_same_labels(tmp_path: Path) -> None:
    one = imagenet.load(small_imagenet(tmp_path / "a"))
    root = small_imagenet(tmp_path / "b", devkit=True)
    with pytest.raises(UserError, match=r"missing: ILSVRC2012_devkit_t12"):
        imagenet.load(root)
    data = root / "ILSVRC2012_devkit_t12" / "data"
    data.mkdir(parents=True)
    # The devkit counts classes in an order of its own.
    ids = {WNIDS[0]: 2, WNIDS[1]: 3, WNIDS[2]: 1}
    kind = [("ILSVRC2012_ID", "f8"), ("WNID", "O")]
    savemat(data / "meta.mat", {"synsets": np.array([(i, w) for w, i in ids.items()], dtype=kind)})
    lines = [ids[w] for w in reversed(WNIDS)]
    (data / "ILSVRC2012_validation_ground_truth.txt").write_text("\n".join(map(str, lines)))
    two = imagenet.load(root)
    assert one.classes == two.classes == WNIDS
    names = {Path(p.name).name: int(label) for p, label in zip(two.test.pictures, two.test.labels, strict=True)}
    assert names == {Path(p.name).name: int(y) for p, y in zip(one.test.pictures, one.test.labels, strict=True)}


def test_a_prediction_is_taken_among_the_classes_of_the_set(tmp_path: Path) -> None:
    picture(tmp_path / "a" / WNIDS[2] / "x.jpg")
    one = imagenet.variant(tmp_path / "a", "imagenet-a", WNIDS)
    assert one.allowed.tolist() == [2]
    assert right(torch.tensor([[9.0, 5.0, 1.0]]), one).tolist() == [True]
    picture(tmp_path / "a" / "n09999999" / "x.jpg")
    with pytest.raises(UserError, match="'n09999999' is no class of ImageNet-1k"):
        imagenet.variant(tmp_path / "a", "imagenet-a", WNIDS)


def test_v2_folders_are_numbers(tmp_path: Path) -> None:
    for i in (0, 1, 2):
        picture(tmp_path / str(i) / "x.jpeg")
    one = imagenet.variant(tmp_path, "imagenet-v2", WNIDS)
    assert one.accepted.argmax(axis=1).tolist() == [0, 1, 2]


def test_real_accepts_any_listed_label_and_leaves_out_images_without(tmp_path: Path) -> None:
    data = imagenet.load(small_imagenet(tmp_path / "in"))
    # In the order of file names; the tree's names run against its classes.
    (tmp_path / "real.json").write_text(json.dumps([[0, 2], [], [1]]))
    one = imagenet.real(tmp_path / "real.json", data.test, data.classes)
    logits = torch.tensor([[0.0, 0, 1], [9, 9, 9], [1, 0, 0]])  # rows: images 3, 2, 1
    assert right(logits, one).tolist() == [False, True]
    (tmp_path / "real.json").write_text("[[0]]")
    with pytest.raises(UserError, match="1 rows for 3"):
        imagenet.real(tmp_path / "real.json", data.test, data.classes)


def test_objectnet_maps_folders_to_several_classes_and_drops_foreign_ones(tmp_path: Path) -> None:
    for name in ("air_freshener", "chair"):
        picture(tmp_path / "images" / name / "x.png")
    (tmp_path / "mappings").mkdir()
    folders = {"air_freshener": "Air freshener", "chair": "Chair"}
    (tmp_path / "mappings/folder_to_objectnet_label.json").write_text(json.dumps(folders))
    (tmp_path / "mappings/objectnet_to_imagenet_1k.json").write_text(json.dumps({"Chair": "barber chair; rocker"}))
    one = imagenet.objectnet(tmp_path, WNIDS, ["barber chair", "goldfish", "rocker"])
    assert len(one.pictures) == 1
    assert one.accepted.tolist() == [[True, False, True]]
    assert one.allowed.tolist() == [0, 2]


def test_both_protocols_run_from_one_model(tmp_path: Path) -> None:
    root = small_imagenet(tmp_path / "in")
    for i in range(12):
        picture(root / "train" / WNIDS[i % 3] / f"more_{i}.JPEG", 40 + i)
    picture(tmp_path / "a" / WNIDS[1] / "x.jpg")
    quick = {"steps": 5, "batch": 4}
    settings = {"robustness": {**quick, "imagenet_a": str(tmp_path / "a")}}
    context = Context(FeatureCache(tmp_path / "c"))
    found = evaluation.evaluate(model(), imagenet.load(root), ["robustness"], context, settings)
    assert [s.name for s in found.results[0].scores] == ["imagenet-a"]
    settings = {"corruptions": {**quick, "names": ["contrast", "fog"], "severities": [1, 5]}}
    data = evaluation.open_data(str(tree(tmp_path / "set", count=6)))
    found = evaluation.evaluate(model(), data, ["corruptions"], context, settings)
    total, one, two = found.results[0].scores
    assert total.name == "mean error, not normalised"
    assert total.value == pytest.approx((one.value + two.value) / 2)
    (tmp_path / "base.json").write_text(json.dumps({"contrast": 0.5, "fog": 0.5}))
    settings["corruptions"]["baseline"] = str(tmp_path / "base.json")
    again = evaluation.evaluate(model(), data, ["corruptions"], context, settings).results[0].scores[0]
    assert again.name == "mCE"
    assert again.value == pytest.approx(2 * total.value)


def test_imagenet_c_is_read_from_its_own_folders_and_divided_by_alexnets_errors(tmp_path: Path) -> None:
    root = small_imagenet(tmp_path / "in")
    for i in range(6):
        picture(root / "train" / WNIDS[i % 3] / f"more_{i}.JPEG", 40 + i)
    data = imagenet.load(root)
    for below in ("noise/gaussian_noise/1", "digital/contrast/1"):
        for i, wnid in enumerate(WNIDS):
            picture(tmp_path / "c" / below / wnid / f"ILSVRC2012_val_0000000{3 - i}.JPEG", 60 + i)
    settings = {"steps": 2, "batch": 2, "names": ["gaussian_noise", "contrast"], "severities": [1]}
    run = {"corruptions": {**settings, "folder": str(tmp_path / "c")}}
    context = Context(FeatureCache(tmp_path / "cache"))
    total, one, two = evaluation.evaluate(model(), data, ["corruptions"], context, run).results[0].scores
    assert total.name == "mCE"
    assert "ImageNet-C's files" in total.note
    assert total.value == pytest.approx((one.value / 0.886428 + two.value / 0.853204) / 2)
    split = imagenet.corrupted(tmp_path / "c", "contrast", 1, data.test, data.classes)
    assert [Path(p.name).parent.name for p in split.pictures] == [WNIDS[i] for i in split.labels]
    shutil.rmtree(tmp_path / "c/digital/contrast/1" / WNIDS[0])
    with pytest.raises(UserError, match="2 pictures for 3 validation images"):
        imagenet.corrupted(tmp_path / "c", "contrast", 1, data.test, data.classes)
    with pytest.raises(UserError, match="no folder contrast/2"):
        imagenet.corrupted(tmp_path / "c", "contrast", 2, data.test, data.classes)
