"""Anybody's own labelled images: ``train`` and ``test`` with a folder a class, tar shards or Parquet in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dinov2_core.errors import UserError, nearest
from dinov2_core.evaluate.datasets.labelled import LabelledSet, Metric, Picture, Split
from dinov2_core.evaluate.datasets.layout import pictures
from dinov2_core.images.sets import ImageSet

FORM = "train/ and test/ (or val/), each with a folder a class, tar shards, or Parquet with columns image and label"
_TESTS = ("test", "val", "validation")


def load(root: Path, *, name: str = "", metric: Metric = "accuracy") -> LabelledSet:
    """The set at ``root``; classes are the labels of train, sorted.

    Raises:
        UserError: a split is missing or empty, an image has no label, or a test label is unknown to train.
    """
    test = next((t for t in _TESTS if (root / t).is_dir()), None)
    if not (root / "train").is_dir() or test is None:
        raise UserError("no folder 'train' with 'test' or 'val' beside it", where=str(root), todo=f"expected {FORM}")
    read = {split: _read(root / split) for split in ("train", test)}
    classes = tuple(sorted({label for _, label in read["train"]}))
    return LabelledSet(
        name or root.name,
        classes,
        numbered("train", read["train"], classes, root),
        numbered(test, read[test], classes, root),
        metric,
    )


def numbered(split: str, items: list[tuple[Picture, str]], classes: tuple[str, ...], root: Path) -> Split:
    """Labels to numbers; UserError that names an image whose label is outside ``classes``."""
    number = {name: i for i, name in enumerate(classes)}
    for picture, label in items:
        if label not in number:
            raise UserError(
                f"the label '{label}' of {picture.name} is outside the list of {len(classes)} classes"
                f"{nearest(label, classes)}",
                where=f"{root}: {split}",
                todo="every class of test needs train images",
            )
    return Split(split, tuple(p for p, _ in items), np.array([number[label] for _, label in items], dtype=np.int64))


def class_folders(folder: Path) -> list[tuple[Picture, str]]:
    """``(picture, name of its folder)`` for a folder a class; a class without images is an error."""
    found = []
    for one in sorted(p for p in folder.iterdir() if p.is_dir()):
        inside = pictures(one, deep=True)
        if not inside:
            raise UserError("a class without an image", where=str(one), todo="add images or remove the folder")
        found += [(Picture(str(p)), one.name) for p in inside]
    return found


def _read(folder: Path) -> list[tuple[Picture, str]]:
    if found := class_folders(folder):
        return found
    items = []
    for item in ImageSet(str(folder)):
        if item.label is None:
            raise UserError("an image without a label", where=f"{folder}/{item.key}", todo=f"expected {FORM}")
        items.append((Picture(f"{folder}/{item.key}", item.data), item.label))
    return items
