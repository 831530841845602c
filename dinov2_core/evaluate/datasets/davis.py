"""DAVIS 2017 in its official tree: frames, masks with object numbers, and the list of sequences.

Scores are in ``tracking_scores.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from dinov2_core.errors import UserError
from dinov2_core.evaluate.datasets.layout import inside, lines, pictures, present, raw, require, rgb


@dataclass(frozen=True)
class Sequence:
    """Frames and masks of one video, in order."""

    name: str
    frames: tuple[Path, ...]
    masks: tuple[Path, ...]

    def read(self) -> tuple[list[NDArray[np.uint8]], list[NDArray[np.uint8]]]:
        """``[H, W, 3]`` pixels and ``[H, W]`` object numbers a frame.

        Raises:
            UserError: a file cannot be read, sizes differ, or the first mask shows no object.
        """
        frames, masks = [rgb(path) for path in self.frames], [raw(path).astype(np.uint8) for path in self.masks]
        for path, frame, mask in zip(self.masks, frames, masks, strict=True):
            if mask.shape != frame.shape[:2] or frame.shape != frames[0].shape:
                raise UserError(f"{mask.shape} pixels, its frame has {frame.shape[:2]}", where=str(path))
        if not masks[0].any():
            raise UserError("the first mask shows no object", where=str(self.masks[0]))
        return frames, masks


@dataclass(frozen=True)
class TrackingSet:
    """Sequences to follow objects through."""

    kind: ClassVar[str] = "tracking"
    name: str
    sequences: tuple[Sequence, ...]


def davis(root: Path, *, split: str = "val", year: str = "2017", size: str = "480p") -> TrackingSet:
    """``JPEGImages/480p``, ``Annotations/480p``, ``ImageSets/2017/val.txt``, in ``root`` or ``root/DAVIS``."""
    root = inside(root, "DAVIS")
    names = (f"JPEGImages/{size}", f"Annotations/{size}", f"ImageSets/{year}/{split}.txt")
    require(root, *names, form=", ".join(names))
    found = []
    for name in lines(root / names[2]):
        require(root, f"{names[0]}/{name}", form=f"a folder of frames for each line of {names[2]}")
        frames = pictures(root / names[0] / name)
        masks = [root / names[1] / name / f"{frame.stem}.png" for frame in frames]
        present(masks, what="masks")
        if len(frames) < 3:
            raise UserError(f"{len(frames)} frames, 3 or more needed", where=str(root / names[0] / name))
        found.append(Sequence(name, tuple(frames), tuple(masks)))
    if not found:
        raise UserError("no sequences", where=str(root / names[2]))
    return TrackingSet(f"DAVIS {year} {split}", tuple(found))
