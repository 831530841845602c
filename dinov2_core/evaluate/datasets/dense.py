"""What segmentation and depth sets have in common: pairs of pictures and targets, read and checked.

The layouts are in ``segmentation.py`` and ``depth.py`` beside this file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from dinov2_core.errors import UserError
from dinov2_core.evaluate.datasets.layout import raw, rgb
from dinov2_core.evaluate.depth_scores import Crop

IGNORE = 255
"""The class that no pixel counts as."""


@dataclass(frozen=True)
class Pair:
    """A picture and its target on disk."""

    image: Path
    target: Path


@dataclass(frozen=True)
class SegmentationSet:
    """``labels``: stored number → class from 0, or :data:`IGNORE`; a number that is not in it is an error."""

    kind: ClassVar[str] = "segmentation"
    name: str
    classes: tuple[str, ...]
    train: tuple[Pair, ...]
    test: tuple[Pair, ...]
    labels: tuple[tuple[int, int], ...]

    def read(self, pair: Pair) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """``(pixels [H, W, 3], classes [H, W])``.

        Raises:
            UserError: a file is missing or damaged, sizes differ, or a label is none of the set's.
        """
        image, classes = rgb(pair.image), self.classes_of(pair)
        _same_size(image, classes, pair)
        return image, classes

    def classes_of(self, pair: Pair) -> NDArray[np.uint8]:
        """The target alone, ``[H, W]``; its picture is not read.

        Raises:
            UserError: the file is missing or damaged, or a label is none of the set's.
        """
        stored = raw(pair.target)
        table = np.full(65_536, -1, np.int16)
        for number, value in self.labels:
            table[number] = value
        if stored.size and not 0 <= stored.min() <= stored.max() < len(table):
            raise UserError(f"labels from {stored.min()} to {stored.max()}", where=str(pair.target))
        classes = table[stored.astype(np.int64)]
        if (classes < 0).any():
            unknown = sorted(set(stored[classes < 0].ravel().tolist()))[:5]
            raise UserError(
                f"label {', '.join(map(str, unknown))} is none of {self.name}'s",
                where=str(pair.target),
                todo=f"known are {_ranges([n for n, _ in self.labels])}",
            )
        return classes.astype(np.uint8)


@dataclass(frozen=True)
class DepthSet:
    """``decode``: a target's path → metres ``[H, W]``, 0 where unknown. ``low … high``: the range that counts.

    ``bottom_centre``: rows and columns of KITTI's benchmark crop, taken of picture and target alike; None = whole.
    """

    kind: ClassVar[str] = "depth"
    name: str
    train: tuple[Pair, ...]
    test: tuple[Pair, ...]
    decode: Callable[[Path], NDArray[np.float32]]
    low: float
    high: float
    crop: Crop = "none"
    bottom_centre: tuple[int, int] | None = None

    def read(self, pair: Pair) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """``(pixels [H, W, 3], metres [H, W])``.

        Raises:
            UserError: a file is missing or damaged, sizes differ, a depth is negative or not finite, no pixel has one.
        """
        image, depth = rgb(pair.image), self.decode(pair.target)
        _same_size(image, depth, pair)
        if not np.isfinite(depth).all():
            raise UserError(
                f"{int((~np.isfinite(depth)).sum())} depths are not finite",
                where=str(pair.target),
                todo="write 0 where the depth is unknown",
            )
        if (depth < 0).any():
            raise UserError("a depth is negative", where=str(pair.target), todo="write 0 where the depth is unknown")
        if self.bottom_centre:
            rows, columns = self.bottom_centre
            top, left = image.shape[0] - rows, (image.shape[1] - columns) // 2
            if top < 0 or left < 0:
                raise UserError(f"smaller than {rows} × {columns} pixels", where=str(pair.image))
            image, depth = image[top:, left : left + columns], depth[top:, left : left + columns]
        if not ((depth > self.low) & (depth < self.high)).any():
            raise UserError(
                f"no pixel has a depth between {self.low} and {self.high} m",
                where=str(pair.target),
                todo="check the unit of the stored depths",
            )
        return image, depth


def pairs_of(images: list[Path], targets: list[Path]) -> tuple[Pair, ...]:
    """Pictures with targets, in order."""
    return tuple(Pair(i, t) for i, t in zip(images, targets, strict=True))


def _same_size(image: NDArray, target: NDArray, pair: Pair) -> None:
    if image.shape[:2] != target.shape:
        raise UserError(
            f"{target.shape[0]} × {target.shape[1]} pixels, but its picture {pair.image.name} has "
            f"{image.shape[0]} × {image.shape[1]}",
            where=str(pair.target),
            todo="give target and picture the same size",
        )


def _ranges(numbers: list[int]) -> str:
    """``[0, 1, 2, 255]`` → ``0–2, 255``."""
    parts: list[list[int]] = []
    for n in sorted(numbers):
        if parts and n == parts[-1][1] + 1:
            parts[-1][1] = n
        else:
            parts.append([n, n])
    return ", ".join(str(a) if a == b else f"{a}–{b}" for a, b in parts)
