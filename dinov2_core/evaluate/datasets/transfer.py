"""The transfer sets of the paper's tables 7 and 8, each in its official layout and with its own metric.

Mean per class for Aircraft, Pets, Caltech-101 and Flowers (Kornblith et al., arXiv 1805.08974, whose protocol the
paper's table follows); VOC 2007 by mean average precision over 20 independent classes.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from dinov2_core.errors import UserError
from dinov2_core.evaluate.datasets import folder, imagenet
from dinov2_core.evaluate.datasets.folder import numbered
from dinov2_core.evaluate.datasets.imagenet import listed
from dinov2_core.evaluate.datasets.labelled import LabelledSet, Metric, Picture, Split
from dinov2_core.evaluate.datasets.layout import inside, json_file, lines, require

Rows = list[tuple[str, str]]
PER_CLASS: Metric = "mean per class"


def _made(name: str, root: Path, splits: Sequence[Rows], metric: Metric = "accuracy", base: str = "") -> LabelledSet:
    classes = tuple(sorted({label for _, label in splits[0]}))
    read = [listed(root / base, rows, what=f"{s} images") for s, rows in zip(("train", "test"), splits, strict=True)]
    train, test = (numbered(s, items, classes, root) for s, items in zip(("train", "test"), read, strict=True))
    return LabelledSet(name, classes, train, test, metric)


def food(root: Path) -> LabelledSet:
    """Food-101: ``meta/train.txt`` lists ``class/id``."""
    root = require(inside(root, "food-101"), "images", "meta/train.txt", "meta/test.txt", form="the tree food-101/")
    splits = [[(f"{x}.jpg", x.split("/")[0]) for x in lines(root / f"meta/{s}.txt")] for s in ("train", "test")]
    return _made("food", root, splits, base="images")


def dtd(root: Path) -> LabelledSet:
    """Describable Textures, split 1; train and val are trained on."""
    names = [f"labels/{s}1.txt" for s in ("train", "val", "test")]
    root = require(inside(root, "dtd"), "images", *names, form="the tree dtd/")
    train, val, test = ([(x, x.split("/")[0]) for x in lines(root / n)] for n in names)
    return _made("dtd", root, [train + val, test], base="images")


def aircraft(root: Path) -> LabelledSet:
    """FGVC-Aircraft, variants."""
    names = ["images_variant_trainval.txt", "images_variant_test.txt"]
    root = require(inside(root, "fgvc-aircraft-2013b/data", "data"), "images", *names, form="fgvc-aircraft-2013b/data/")
    pairs = [[line.split(" ", 1) for line in lines(root / n)] for n in names]
    return _made("aircraft", root, [[(f"{i}.jpg", v) for i, v in p] for p in pairs], PER_CLASS, "images")


def pets(root: Path) -> LabelledSet:
    """Oxford-IIIT Pets: ``annotations/trainval.txt`` lists ``name class …``."""
    names = ["annotations/trainval.txt", "annotations/test.txt"]
    require(root, "images", *names, form="images/ and annotations/")
    pairs = [[(line.split()[0], line.split()[1]) for line in lines(root / n) if line[0] != "#"] for n in names]
    return _made("pets", root, [[(f"{n}.jpg", c) for n, c in p] for p in pairs], PER_CLASS, "images")


def cub(root: Path) -> LabelledSet:
    """CUB-200-2011."""
    names = ["images.txt", "image_class_labels.txt", "train_test_split.txt"]
    root = require(inside(root, "CUB_200_2011"), "images", *names, form="the tree CUB_200_2011/")
    paths, labels, split = (dict(line.split() for line in lines(root / n)) for n in names)
    rows = {flag: [(p, labels[i]) for i, p in paths.items() if split[i] == flag] for flag in "10"}
    return _made("cub", root, [rows["1"], rows["0"]], base="images")


def sun397(root: Path) -> LabelledSet:
    """SUN397, partition 1."""
    names = ["Training_01.txt", "Testing_01.txt"]
    require(root, *names, form="SUN397/ and the partition files")
    splits = [[(x.lstrip("/"), x.rpartition("/")[0]) for x in lines(root / n)] for n in names]
    return _made("sun397", root, splits, base="SUN397")


def flowers(root: Path) -> LabelledSet:
    """Oxford Flowers 102: train and val are trained on."""
    from scipy.io import loadmat

    require(root, "jpg", "imagelabels.mat", "setid.mat", form="jpg/, imagelabels.mat and setid.mat")
    labels = loadmat(root / "imagelabels.mat")["labels"][0]
    ids = loadmat(root / "setid.mat")
    splits = [np.concatenate([ids[k][0] for k in keys]) for keys in (("trnid", "valid"), ("tstid",))]
    rows = [[(f"image_{i:05d}.jpg", f"{labels[i - 1]:03d}") for i in split] for split in splits]
    return _made("flowers", root, rows, PER_CLASS, "jpg")


def cars(root: Path) -> LabelledSet:
    """Stanford Cars with the labelled test annotations."""
    from scipy.io import loadmat

    files = {"cars_train": "devkit/cars_train_annos.mat", "cars_test": "cars_test_annos_withlabels.mat"}
    require(root, *files, *files.values(), form="cars_train/, cars_test/, devkit/ and cars_test_annos_withlabels.mat")
    rows = []
    for base, name in files.items():
        table = np.atleast_1d(loadmat(root / name, squeeze_me=True)["annotations"])
        rows.append([(f"{base}/{a['fname']}", f"{int(a['class']):03d}") for a in table])
    return _made("cars", root, rows)


def caltech101(root: Path) -> LabelledSet:
    """Caltech-101: 30 images a class to train on, drawn with seed 0, the rest to test on; background is no class."""
    root, form = inside(root, "101_ObjectCategories"), "101_ObjectCategories/ with a folder a class"
    require(root, form=form)
    rng, splits = np.random.default_rng(0), ([], [])  # type: tuple[np.random.Generator, tuple[Rows, Rows]]
    of_class: dict[str, list[str]] = {}
    for picture, label in folder.class_folders(root):
        if label != "BACKGROUND_Google":
            of_class.setdefault(label, []).append(str(Path(picture.name).relative_to(root)))
    if not of_class:
        raise UserError("no class", where=str(root), todo=f"expected {form}")
    for label, names in of_class.items():
        order = rng.permutation(len(names))
        for target, rows in zip(splits, (order[:30], order[30:]), strict=True):
            target.extend((names[i], label) for i in rows)
    return _made("caltech101", root, splits, PER_CLASS)


def voc2007(root: Path) -> LabelledSet:
    """VOC 2007 classification: 20 lists of 1, -1 and 0 (difficult, not scored)."""
    root = require(inside(root, "VOCdevkit/VOC2007", "VOC2007"), "JPEGImages", "ImageSets/Main", form="VOC2007/")
    lists = root / "ImageSets/Main"
    classes = tuple(sorted(p.name.removesuffix("_trainval.txt") for p in lists.glob("*_trainval.txt")))
    if not classes:
        raise UserError("no list CLASS_trainval.txt", where=str(lists), todo="expected a list a class for each split")
    splits = []
    for part in ("trainval", "test"):
        tables = [dict(line.split() for line in lines(lists / f"{c}_{part}.txt")) for c in classes]
        names = sorted(tables[0]) if tables else []
        code = {"1": 1, "-1": 0, "0": -1}
        labels = np.array([[code[t[n]] for t in tables] for n in names], dtype=np.int64)
        items = listed(root / "JPEGImages", [(f"{n}.jpg", "") for n in names], what=f"{part} images")
        splits.append(Split(part, tuple(p for p, _ in items), labels))
    return LabelledSet("voc2007", classes, splits[0], splits[1], "mAP")


def cifar(root: Path, fine: bool) -> LabelledSet:
    """CIFAR-10 or -100, the binary version."""
    import io

    from PIL import Image

    name = "cifar100" if fine else "cifar10"
    below = "cifar-100-binary" if fine else "cifar-10-batches-bin"
    files = {"train": ["train.bin"] if fine else [f"data_batch_{i}.bin" for i in range(1, 6)]}
    files["test"] = ["test.bin"] if fine else ["test_batch.bin"]
    meta = "fine_label_names.txt" if fine else "batches.meta.txt"
    root = require(inside(root, below), *files["train"], *files["test"], meta, form=f"the binary version, {below}/")
    head, classes = 2 if fine else 1, tuple(lines(root / meta))
    splits = []
    for split, names in files.items():
        data = np.concatenate([np.fromfile(root / n, np.uint8) for n in names])
        if not len(data) or len(data) % (3072 + head):
            raise UserError("a file is cut off", where=f"{root}: {split}", todo="copy it again")
        table = data.reshape(-1, 3072 + head)
        found = []
        for i, row in enumerate(table):
            buffer = io.BytesIO()
            Image.fromarray(row[head:].reshape(3, 32, 32).transpose(1, 2, 0)).save(buffer, "BMP")
            found.append(Picture(f"{root}/{split}/{i}", buffer.getvalue()))
        splits.append(Split(split, tuple(found), table[:, head - 1].astype(np.int64)))
    return LabelledSet(name, classes, splits[0], splits[1])


def inaturalist(root: Path, year: str) -> LabelledSet:
    """iNaturalist 2018 or 2021: ``trainYEAR.json`` and ``valYEAR.json`` (2021: ``train.json``, ``val.json``)."""
    names = [f"{s}{'' if year == '2021' else year}.json" for s in ("train", "val")]
    require(root, *names, form=f"{names[0]}, {names[1]} and the images that they list")
    splits = []
    for name in names:
        table = json_file(root / name)
        label = {a["image_id"]: f"{a['category_id']:05d}" for a in table["annotations"]}
        splits.append([(image["file_name"], label[image["id"]]) for image in table["images"]])
    return _made(f"inaturalist{year[2:]}", root, splits)


def places205(root: Path) -> LabelledSet:
    """Places205: ``trainvalsplit_places205/{train,val}_places205.csv`` of ``path label``."""
    names = [f"trainvalsplit_places205/{s}_places205.csv" for s in ("train", "val")]
    base = "data/vision/torralba/deeplearning/images256"
    require(root, base, *names, form=f"{base}/ and trainvalsplit_places205/")
    splits: list[Rows] = []
    for name in names:
        with (root / name).open(newline="") as file:
            splits.append([(row[0], f"{int(row[1]):03d}") for row in csv.reader(file, delimiter=" ") if row])
    return _made("places205", root, splits, base=base)


SETS: Mapping[str, Callable[[Path], LabelledSet]] = {
    "folder": folder.load,
    "imagenet": imagenet.load,
    "food": food,
    "cifar10": lambda root: cifar(root, fine=False),
    "cifar100": lambda root: cifar(root, fine=True),
    "sun397": sun397,
    "cars": cars,
    "aircraft": aircraft,
    "voc2007": voc2007,
    "dtd": dtd,
    "pets": pets,
    "caltech101": caltech101,
    "flowers": flowers,
    "cub": cub,
    "inaturalist18": lambda root: inaturalist(root, "2018"),
    "inaturalist21": lambda root: inaturalist(root, "2021"),
    "places205": places205,
}
"""Every labelled data set by name."""
