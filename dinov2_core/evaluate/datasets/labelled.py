"""Labelled images in train and test splits: what classification protocols run on, however they lie on disk.

The layouts are in the modules beside this one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dinov2_core.errors import UserError
from dinov2_core.evaluate.datasets import layout
from dinov2_core.images.decode import Refused, decode

Metric = Literal["accuracy", "mean per class", "mAP"]


@dataclass(frozen=True)
class Picture:
    """An image by name: a file, or the encoded bytes themselves."""

    name: str
    data: bytes | None = None

    def pixels(self) -> NDArray[np.uint8]:
        """``[H, W, 3]`` uint8 RGB; UserError that names the picture where it cannot be read whole."""
        if self.data is None:
            return layout.rgb(Path(self.name))
        found = decode(self.data)
        if isinstance(found, Refused):
            todo = "replace it: test images are not skipped"
            raise UserError(f"not a whole picture ({found.reason})", where=self.name, todo=todo)
        return found.pixels

    def state(self) -> str:
        """What changes when the picture does: of a file its size and time, of bytes their checksum."""
        if self.data is not None:
            return hashlib.sha256(self.data).hexdigest()
        try:
            stat = Path(self.name).stat()
        except OSError as error:
            raise UserError("no such picture", where=self.name, todo="complete the data set") from error
        return f"{stat.st_size} {stat.st_mtime_ns}"


@dataclass(frozen=True)
class Split:
    """``labels``: ``[N]`` int64 class numbers; for several labels an image ``[N, C]``: 1 yes, 0 no, -1 not scored."""

    name: str
    pictures: tuple[Picture, ...]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.pictures)

    def digest(self) -> str:
        """The images' state and order; labels do not enter, since features do not depend on them."""
        total = hashlib.sha256()
        for picture in self.pictures:
            total.update(f"{picture.name}\0{picture.state()}\n".encode())
        return total.hexdigest()

    def take(self, rows: NDArray[np.int64]) -> Split:
        """The images at ``rows``."""
        return Split(self.name, tuple(self.pictures[i] for i in rows), self.labels[rows])


@dataclass(frozen=True)
class LabelledSet:
    """A data set with ``train`` and ``test``; ``metric`` is what its literature reports."""

    name: str
    classes: tuple[str, ...]
    train: Split
    test: Split
    metric: Metric = "accuracy"
    kind: str = "labelled"

    def __post_init__(self) -> None:
        for split in (self.train, self.test):
            check_labels(split, self.classes, where=f"{self.name} {split.name}")
        if self.train.labels.ndim == 1:
            counts = np.bincount(self.train.labels, minlength=len(self.classes))
            if empty := [self.classes[i] for i in np.flatnonzero(counts == 0)]:
                raise UserError(
                    f"{len(empty)} classes have no image, {empty[0]!r} among them",
                    where=f"{self.name} {self.train.name}",
                    todo="give train images of every class",
                )


def check_labels(split: Split, classes: Sequence[str], *, where: str) -> None:
    """UserError where a split is empty, lengths differ or a label is outside the list of classes."""
    if not len(split):
        raise UserError("no image", where=where, todo="complete the data set")
    if len(split.labels) != len(split):
        raise UserError(f"{len(split)} images and {len(split.labels)} labels", where=where, todo="one label an image")
    if split.labels.ndim == 2:
        if split.labels.shape[1] != len(classes):
            raise UserError(f"{split.labels.shape[1]} columns of labels for {len(classes)} classes", where=where)
        return
    bad = (split.labels < 0) | (split.labels >= len(classes))
    if bad.any():
        row = int(np.argmax(bad))
        raise UserError(
            f"label {split.labels[row]} of {split.pictures[row].name} is outside 0 to {len(classes) - 1}",
            where=where,
            todo="labels count from 0 and follow the list of classes",
        )
