"""Electroluminescence photos of solar cells (``elpv-dataset``): 2,624 pictures of 300 pixels, four defect levels.

The data set has no split: every fourth picture is a test picture here.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dinov2_core.errors import UserError
from dinov2_core.evaluate.datasets.labelled import LabelledSet, Picture, Split
from dinov2_core.evaluate.datasets.layout import lines, present, require

LEVELS = (0.0, 1 / 3, 2 / 3, 1.0)
"""The chance that the cell is defect, as it is stored."""


def load(root: Path) -> LabelledSet:
    """``labels.csv`` (a line is ``PATH CHANCE TYPE``) and ``images/``.

    Raises:
        UserError: something is missing, or a line has another form.
    """
    require(root, "labels.csv", "images", form="labels.csv and images/ of elpv-dataset")
    pictures, labels = [], []
    for number, line in enumerate(lines(root / "labels.csv"), 1):
        words = line.split()
        try:
            path, chance = words[0], float(words[1])
        except (IndexError, ValueError) as error:
            raise UserError(f"line {number} is not `PATH CHANCE TYPE`", where=str(root / "labels.csv")) from error
        pictures.append(root / path)
        labels.append(int(np.argmin([abs(chance - level) for level in LEVELS])))
    present(pictures, what="pictures")
    rows = np.arange(len(pictures))

    def split(name: str, chosen: np.ndarray) -> Split:
        found = tuple(Picture(str(pictures[i])) for i in chosen)
        return Split(name, found, np.array([labels[i] for i in chosen], np.int64))

    test = rows % 4 == 3
    classes = ("none", "a third", "two thirds", "certain")
    return LabelledSet("solar cells", classes, split("train", rows[~test]), split("test", rows[test]))
