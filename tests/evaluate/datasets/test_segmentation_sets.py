"""The official trees of segmentation sets, and what a wrong one is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinov2_core.errors import UserError
from dinov2_core.evaluate.datasets import segmentation
from dinov2_core.evaluate.datasets.dense import IGNORE
from tests.evaluate import dense_trees


def test_ade20k_stores_classes_from_one(tmp_path: Path) -> None:
    data = segmentation.ade20k(dense_trees.ade20k(tmp_path))
    assert (len(data.classes), len(data.train), len(data.test)) == (150, 3, 3)
    pixels, classes = data.read(data.test[0])
    assert pixels.shape == (48, 64, 3)
    assert set(np.unique(classes)) == {0, 1, IGNORE}
    assert classes[0, 0] == IGNORE


def test_cityscapes_keeps_nineteen_of_its_labels(tmp_path: Path) -> None:
    data = segmentation.cityscapes(dense_trees.cityscapes(tmp_path))
    assert (len(data.classes), len(data.train), len(data.test)) == (19, 2, 2)
    _, classes = data.read(data.test[0])
    assert set(np.unique(classes)) == {data.classes.index("road"), data.classes.index("car"), IGNORE}


@pytest.mark.parametrize("augmented", [False, True])
def test_voc_reads_palette_indices(tmp_path: Path, augmented: bool) -> None:
    data = segmentation.voc2012(dense_trees.voc(tmp_path, augmented=augmented))
    assert (len(data.classes), len(data.train), len(data.test)) == (21, 2, 2)
    assert (data.train[0].target.parent.name == "SegmentationClassAug") == augmented
    _, classes = data.read(data.test[0])
    assert set(np.unique(classes)) == {0, 1, IGNORE}


def test_a_folder_of_ones_own(tmp_path: Path) -> None:
    data = segmentation.folder(dense_trees.masks(tmp_path, 2))
    assert data.classes == ("ground", "thing")
    assert set(np.unique(data.read(data.train[0])[1])) == {0, 1}


@pytest.mark.parametrize(
    ("load", "missing"),
    [
        (segmentation.ade20k, "annotations"),
        (segmentation.cityscapes, "gtFine/val"),
        (segmentation.voc2012, "SegmentationClass"),
        (segmentation.folder, "classes.txt"),
    ],
)
def test_an_empty_folder_is_told_what_is_missing(tmp_path: Path, load: object, missing: str) -> None:
    with pytest.raises(UserError, match=missing) as error:
        load(tmp_path)  # type: ignore[operator]
    assert "expected" in error.value.todo
    with pytest.raises(UserError, match="no such folder"):
        load(tmp_path / "nowhere")  # type: ignore[operator]


def test_a_missing_mask_is_named(tmp_path: Path) -> None:
    dense_trees.masks(tmp_path, 2)
    (tmp_path / "masks/val/1.png").unlink()
    with pytest.raises(UserError, match=r"1 ground-truth files missing, the first is 1\.png"):
        segmentation.folder(tmp_path)


def test_a_mask_of_another_size_is_named(tmp_path: Path) -> None:
    data = segmentation.folder(dense_trees.masks(tmp_path, 2))
    dense_trees.write(data.test[0].target, np.zeros((10, 10), np.uint8))
    with pytest.raises(UserError, match=r"10 × 10 pixels, but its picture 0\.png has 48 × 64") as error:
        data.read(data.test[0])
    assert error.value.where == str(data.test[0].target)


def test_a_label_outside_the_list_is_named(tmp_path: Path) -> None:
    data = segmentation.folder(dense_trees.masks(tmp_path, 2))
    dense_trees.write(data.test[0].target, np.full((48, 64), 7, np.uint8))
    with pytest.raises(UserError, match="label 7 is none of") as error:
        data.read(data.test[0])
    assert "0–1, 255" in error.value.todo


def test_a_corrupt_test_picture_is_never_skipped(tmp_path: Path) -> None:
    data = segmentation.folder(dense_trees.masks(tmp_path, 2))
    whole = data.test[0].image.read_bytes()
    data.test[0].image.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="not a whole picture") as error:
        data.read(data.test[0])
    assert error.value.where == str(data.test[0].image)
    data.test[1].target.write_bytes(b"nothing")
    with pytest.raises(UserError, match="not a whole picture"):
        data.read(data.test[1])


def test_a_coloured_mask_is_refused(tmp_path: Path) -> None:
    data = segmentation.folder(dense_trees.masks(tmp_path, 2))
    Image.new("RGB", (64, 48)).save(data.test[0].target)
    with pytest.raises(UserError, match="3 channels, 1 expected"):
        data.read(data.test[0])
