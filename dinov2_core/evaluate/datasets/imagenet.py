"""ImageNet-1k as class folders or with its devkit, and the sets that share its classes.

ImageNet-A, -R, -Sketch, -V2 and ObjectNet are test sets only: class numbers are those of ImageNet-1k's synsets in
sorted order, and a prediction is taken among the classes that the set has where it has fewer.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dinov2_core.errors import UserError
from dinov2_core.evaluate.datasets.folder import class_folders, numbered
from dinov2_core.evaluate.datasets.labelled import LabelledSet, Picture, Split
from dinov2_core.evaluate.datasets.layout import json_file, lines, pictures, present, require

FORM = "train/nXXXXXXXX/*.JPEG, and val/ with class folders or with ILSVRC2012_devkit_t12/ beside it"
_TRUTH = "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt"
_META = "ILSVRC2012_devkit_t12/data/meta.mat"


@dataclass(frozen=True)
class Variant:
    """A test set on ImageNet's classes. ``allowed``: the class numbers a prediction is taken from.

    ``accepted [N, 1000]`` bool: which predictions are right; an image with none is not scored (ReaL).
    """

    name: str
    pictures: tuple[Picture, ...]
    accepted: NDArray[np.bool_]
    allowed: NDArray[np.int64]
    kind: str = "variant"


def load(root: Path) -> LabelledSet:
    """ImageNet-1k: classes are the folders of train in sorted order.

    Raises:
        UserError: naming what is missing.
    """
    require(root, "train", "val", form=FORM)
    train = class_folders(root / "train")
    classes = tuple(sorted({label for _, label in train}))
    held = class_folders(root / "val")
    return LabelledSet(
        "imagenet",
        classes,
        numbered("train", train, classes, root),
        numbered("val", held or _devkit(root), classes, root),
    )


def _devkit(root: Path) -> list[tuple[Picture, str]]:
    from scipy.io import loadmat

    require(root, _TRUTH, _META, form=FORM)
    table = loadmat(root / _META, squeeze_me=True)["synsets"]
    synsets = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in np.atleast_1d(table)}
    images, numbers = pictures(root / "val"), lines(root / _TRUTH)
    if len(images) != len(numbers):
        raise UserError(f"{len(images)} images and {len(numbers)} labels", where=str(root / "val"), todo="complete it")
    return [(Picture(str(p)), synsets[int(n)]) for p, n in zip(images, numbers, strict=True)]


def variant(root: Path, name: str, classes: tuple[str, ...]) -> Variant:
    """ImageNet-A, -R or -Sketch: folders named by synset. -V2: folders named 0 to 999.

    Raises:
        UserError: a folder is no class of ImageNet-1k.
    """
    require(root, form="a folder a class, named by synset (V2: by number)")
    items = class_folders(root)
    if not items:
        raise UserError("no class folder", where=str(root), todo="expected a folder a class, named by synset")
    number = {wnid: i for i, wnid in enumerate(classes)}
    if all(label.isdigit() for _, label in items):
        number = {str(i): i for i in range(len(classes))}
    if foreign := sorted({label for _, label in items} - set(number)):
        raise UserError(f"'{foreign[0]}' is no class of ImageNet-1k", where=str(root), todo="give the official folders")
    truth = np.array([number[label] for _, label in items], dtype=np.int64)
    accepted = np.zeros((len(items), len(classes)), dtype=bool)
    accepted[np.arange(len(items)), truth] = True
    return Variant(name, tuple(p for p, _ in items), accepted, np.unique(truth))


def corrupted(root: Path, name: str, severity: int, val: Split, classes: tuple[str, ...]) -> Split:
    """ImageNet-C: ``NAME/SEVERITY/nXXXXXXXX/*.JPEG``, in ``root`` or in one of its archives' folders (``noise/``, …).

    Raises:
        UserError: the folder is not there, is not as large as the validation set, or has a foreign class.
    """
    require(root, form="CORRUPTION/SEVERITY/nXXXXXXXX/*.JPEG, or the same below noise/, blur/, weather/ and digital/")
    below = sorted([*root.glob(f"{name}/{severity}"), *root.glob(f"*/{name}/{severity}")])
    if not below:
        raise UserError(f"no folder {name}/{severity}", where=str(root), todo="unpack all archives of ImageNet-C")
    items = class_folders(below[0])
    if len(items) != len(val):
        todo = "complete it: a score over the rest would be another score"
        raise UserError(f"{len(items)} pictures for {len(val)} validation images", where=str(below[0]), todo=todo)
    return numbered(f"{name} {severity}", items, classes, below[0])


def real(path: Path, val: Split, classes: tuple[str, ...]) -> Variant:
    """ImageNet-ReaL: ``real.json``, a list of labels for each validation image in the order of file names."""
    table = json_file(path)
    order = sorted(range(len(val)), key=lambda i: Path(val.pictures[i].name).name)
    if len(table) != len(val):
        raise UserError(f"{len(table)} rows for {len(val)} validation images", where=str(path), todo="give real.json")
    accepted = np.zeros((len(val), len(classes)), dtype=bool)
    for row, i in zip(table, order, strict=True):
        if any(not 0 <= label < len(classes) for label in row):
            raise UserError(f"a label of {row} is outside 0 to {len(classes) - 1}", where=str(path))
        accepted[i, row] = True
    return Variant("imagenet-real", val.pictures, accepted, np.arange(len(classes)))


def objectnet(root: Path, classes: tuple[str, ...], imagenet_names: list[str]) -> Variant:
    """ObjectNet: ``images/FOLDER`` with the two mapping files of ``mappings/`` as distributed.

    Args:
        imagenet_names: ``mappings``' names of ImageNet's classes, by class number (``imagenet_to_label_2012_v2``).
    """
    folders, to_imagenet = "mappings/folder_to_objectnet_label.json", "mappings/objectnet_to_imagenet_1k.json"
    form = f"images/, {folders} and {to_imagenet}"
    require(root, "images", folders, to_imagenet, form=form)
    label_of, names_of = json_file(root / folders), json_file(root / to_imagenet)
    number = {name: i for i, name in enumerate(imagenet_names)}
    found, rows = [], []
    for picture, folder in class_folders(root / "images"):
        label = label_of.get(folder)
        if label is None:
            raise UserError(f"the folder '{folder}' is in no mapping", where=str(root), todo=f"expected {form}")
        # Two thirds of the classes are no classes of ImageNet; they are no part of the score.
        if label in names_of:
            found.append(picture)
            rows.append([number[name.strip()] for name in names_of[label].split(";")])
    accepted = np.zeros((len(found), len(classes)), dtype=bool)
    for i, row in enumerate(rows):
        accepted[i, row] = True
    return Variant("objectnet", tuple(found), accepted, np.flatnonzero(accepted.any(axis=0)))


def listed(root: Path, rows: list[tuple[str, str]], *, what: str) -> list[tuple[Picture, str]]:
    """``(path below root, label)`` to pictures, after seeing that every file is there."""
    present((root / path for path, _ in rows), what=what)
    return [(Picture(str(root / path)), label) for path, label in rows]
