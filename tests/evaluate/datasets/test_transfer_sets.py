"""The labelled transfer sets, each on a tiny tree in its official layout: counts, labels, metric, what is missing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from scipy.io import savemat

from dinov2_core.errors import UserError
from dinov2_core.evaluate import evaluation
from dinov2_core.evaluate.datasets.labelled import LabelledSet


def picture(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (len(path.name) * 9 % 256, 30, 60)).save(path)
    return path.name


def text(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def food(root: Path) -> Path:
    for split, number in (("train", 1), ("test", 2)):
        for name in ("pie", "soup"):
            picture(root / f"food-101/images/{name}/{number}.jpg")
        text(root / f"food-101/meta/{split}.txt", f"pie/{number}", f"soup/{number}")
    return root


def dtd(root: Path) -> Path:
    for split, number in (("train", 1), ("val", 2), ("test", 3)):
        for name in ("dotted", "woven"):
            picture(root / f"dtd/images/{name}/{name}_{number}.jpg")
        text(root / f"dtd/labels/{split}1.txt", *(f"{n}/{n}_{number}.jpg" for n in ("dotted", "woven")))
    return root


def aircraft(root: Path) -> Path:
    base = root / "fgvc-aircraft-2013b/data"
    for split, first in (("trainval", 100), ("test", 200)):
        for i in (0, 1):
            picture(base / f"images/{first + i}.jpg")
        # Names of variants have blanks.
        text(base / f"images_variant_{split}.txt", f"{first} Boeing 737 MAX", f"{first + 1} A320")
    return root


def pets(root: Path) -> Path:
    for split, n in (("trainval", 1), ("test", 2)):
        rows = [f"Abyssinian_{n} 1 1 1", f"beagle_{n} 2 2 1"]
        for row in rows:
            picture(root / f"images/{row.split()[0]}.jpg")
        text(root / f"annotations/{split}.txt", "#Image CLASS-ID SPECIES BREED ID", *rows)
    return root


def cub(root: Path) -> Path:
    base = root / "CUB_200_2011"
    paths = [f"00{c}.Bird/{c}_{i}.jpg" for c in (1, 2) for i in (1, 2)]
    for path in paths:
        picture(base / "images" / path)
    text(base / "images.txt", *(f"{i} {p}" for i, p in enumerate(paths, 1)))
    text(base / "image_class_labels.txt", "1 1", "2 1", "3 2", "4 2")
    text(base / "train_test_split.txt", "1 1", "2 0", "3 1", "4 0")
    return root


def sun397(root: Path) -> Path:
    for split, n in (("Training", 1), ("Testing", 2)):
        # One class lies a folder deeper than the other.
        rows = [f"/a/abbey/sun_{n}.jpg", f"/a/apse/indoor/sun_{n}.jpg"]
        for row in rows:
            picture(root / f"SUN397{row}")
        text(root / f"{split}_01.txt", *rows)
    return root


def flowers(root: Path) -> Path:
    for i in range(1, 7):
        picture(root / f"jpg/image_{i:05d}.jpg")
    savemat(root / "imagelabels.mat", {"labels": [[1, 2, 1, 2, 1, 2]]})
    savemat(root / "setid.mat", {"trnid": [[1, 2]], "valid": [[3, 4]], "tstid": [[5, 6]]})
    return root


def cars(root: Path) -> Path:
    for base, name in (("cars_train", "devkit/cars_train_annos.mat"), ("cars_test", "cars_test_annos_withlabels.mat")):
        names = [picture(root / base / f"0000{i}.jpg") for i in (1, 2)]
        table = np.array([(n, i) for i, n in enumerate(names, 1)], dtype=[("fname", "O"), ("class", "O")])
        (root / name).parent.mkdir(exist_ok=True)
        savemat(root / name, {"annotations": table[None]})
    return root


def caltech101(root: Path) -> Path:
    for name, count in (("accordion", 31), ("yin_yang", 31), ("BACKGROUND_Google", 1)):
        for i in range(count):
            picture(root / f"101_ObjectCategories/{name}/image_{i:04d}.jpg")
    return root


def voc2007(root: Path) -> Path:
    base = root / "VOCdevkit/VOC2007"
    for split, names in (("trainval", ("000001", "000002")), ("test", ("000003", "000004"))):
        for name in names:
            picture(base / f"JPEGImages/{name}.jpg")
        text(base / f"ImageSets/Main/cat_{split}.txt", f"{names[0]}  1", f"{names[1]} -1")
        text(base / f"ImageSets/Main/dog_{split}.txt", f"{names[0]}  0", f"{names[1]}  1")
    return root


def _cifar(root: Path, below: str, files: dict[str, int], head: int, meta: str) -> Path:
    base = root / below
    base.mkdir(parents=True)
    for name, count in files.items():
        rows = np.random.default_rng(count).integers(0, 256, (count, 3072 + head), dtype=np.uint8)
        rows[:, :head] = np.arange(count)[:, None] % 2
        (base / name).write_bytes(rows.tobytes())
    text(base / meta, "apple", "boat")
    return root


def cifar10(root: Path) -> Path:
    files = {**{f"data_batch_{i}.bin": 2 for i in range(1, 6)}, "test_batch.bin": 2}
    return _cifar(root, "cifar-10-batches-bin", files, 1, "batches.meta.txt")


def cifar100(root: Path) -> Path:
    return _cifar(root, "cifar-100-binary", {"train.bin": 4, "test.bin": 2}, 2, "fine_label_names.txt")


def _inaturalist(root: Path, year: str, suffix: str) -> Path:
    for split, start in (("train", 10), ("val", 20)):
        images = [{"id": start + i, "file_name": f"{split}_{year}/{i}/{start}.jpg"} for i in (0, 1)]
        for image in images:
            picture(root / str(image["file_name"]))
        marks = [{"image_id": start + i, "category_id": i + 5} for i in (0, 1)]
        text(root / f"{split}{suffix}.json", json.dumps({"images": images, "annotations": marks[::-1]}))
    return root


def inaturalist18(root: Path) -> Path:
    return _inaturalist(root, "2018", "2018")


def inaturalist21(root: Path) -> Path:
    return _inaturalist(root, "2021", "")


def places205(root: Path) -> Path:
    for split, n in (("train", 1), ("val", 2)):
        rows = [f"a/abbey/{n}.jpg 0", f"z/zoo/{n}.jpg 1"]
        for row in rows:
            picture(root / "data/vision/torralba/deeplearning/images256" / row.split()[0])
        text(root / f"trainvalsplit_places205/{split}_places205.csv", *rows)
    return root


TREES = {f.__name__: f for f in (food, dtd, aircraft, pets, cub, sun397, flowers, cars, caltech101, voc2007)}
TREES |= {f.__name__: f for f in (cifar10, cifar100, inaturalist18, inaturalist21, places205)}
COUNTS = {"dtd": (4, 2), "flowers": (4, 2), "caltech101": (60, 2), "cifar10": (10, 2), "cifar100": (4, 2)}
PER_CLASS = ("aircraft", "pets", "caltech101", "flowers")


@pytest.mark.parametrize("name", TREES)
def test_the_official_tree_is_read_with_its_own_metric(name: str, tmp_path: Path) -> None:
    data = evaluation.open_data(f"{name}={TREES[name](tmp_path)}")
    assert isinstance(data, LabelledSet)
    assert (len(data.train), len(data.test)) == COUNTS.get(name, (2, 2))
    assert len(data.classes) == 2
    assert data.metric == ("mAP" if name == "voc2007" else "mean per class" if name in PER_CLASS else "accuracy")
    for split in (data.train, data.test):
        assert all(p.pixels().shape[2] == 3 for p in split.pictures[:2])
        if name != "voc2007":
            assert sorted(set(split.labels.tolist())) == [0, 1]
    if name != "voc2007":
        # The trees are written so that both splits show a class by equal shares.
        assert np.bincount(data.test.labels).tolist() == [1, 1]


@pytest.mark.parametrize("name", [n for n in TREES if not n.startswith(("cifar", "caltech"))])
def test_a_picture_that_is_listed_and_not_there_is_named(name: str, tmp_path: Path) -> None:
    root = TREES[name](tmp_path)
    lost = sorted(root.rglob("*.jpg"))[-1]
    lost.unlink()
    with pytest.raises(UserError, match=f"missing, the first is {lost.name}"):
        evaluation.open_data(f"{name}={root}")


def test_difficult_objects_of_voc_are_not_scored(tmp_path: Path) -> None:
    data = evaluation.open_data(f"voc2007={voc2007(tmp_path)}")
    assert data.classes == ("cat", "dog")
    assert data.test.labels.tolist() == [[1, -1], [0, 1]]


def test_the_labels_of_inaturalist_follow_image_ids_and_not_the_order(tmp_path: Path) -> None:
    data = evaluation.open_data(f"inaturalist21={inaturalist21(tmp_path)}")
    assert data.train.labels.tolist() == [0, 1]
    assert data.name == "inaturalist21"


def test_a_cifar_file_that_is_cut_off_is_an_error(tmp_path: Path) -> None:
    root = cifar100(tmp_path)
    path = root / "cifar-100-binary/test.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="cut off"):
        evaluation.open_data(f"cifar100={root}")


def test_parquet_files_in_a_folder_are_labelled_images(tmp_path: Path) -> None:
    file = tmp_path / "x.png"
    Image.new("RGB", (8, 8)).save(file)
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        columns = {"image": [file.read_bytes()] * 4, "label": ["a", "b"] * 2}
        pq.write_table(pa.table(columns), tmp_path / split / "0.parquet")
    data = evaluation.open_data(str(tmp_path))
    assert data.classes == ("a", "b")
    assert data.test.labels.tolist() == [0, 1, 0, 1]
    assert data.test.pictures[3].pixels().shape == (8, 8, 3)
