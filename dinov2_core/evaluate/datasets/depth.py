"""NYU Depth V2, KITTI (Eigen's split), SUN RGB-D and ViSP's castle, from split lists as the depth literature has them.

Each function returns a :class:`dense.DepthSet`; nothing is decoded yet.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dinov2_core.errors import UserError
from dinov2_core.evaluate.datasets.dense import DepthSet, Pair
from dinov2_core.evaluate.datasets.layout import lines, pictures, present, raw, require
from dinov2_core.evaluate.depth_scores import Crop


def nyu(root: Path) -> DepthSet:
    """``nyu_train.txt`` and ``nyu_test.txt``: a line is ``RGB DEPTH FOCAL``, paths below ``root``; 16-bit mm."""
    form = "nyu_train.txt and nyu_test.txt, a line `RGB DEPTH FOCAL` with paths below the folder"
    require(root, "nyu_train.txt", "nyu_test.txt", form=form)
    train, test = (_listed(root / f"nyu_{part}.txt", root, root) for part in ("train", "test"))
    return DepthSet("NYUd", train, test, _millimetres, 0.001, 10.0, "nyu")


def kitti(root: Path, *, crop: Crop = "eigen") -> DepthSet:
    """``kitti_eigen_{train,test}.txt``, pictures below ``input/``, 16-bit depth below ``gt_depth/``, 1/256 m.

    Lines whose depth is ``None`` have no ground truth in the official annotation and are not part of the split.
    """
    form = "kitti_eigen_train.txt and kitti_eigen_test.txt (`RGB DEPTH FOCAL` a line), input/ and gt_depth/"
    require(root, "kitti_eigen_train.txt", "kitti_eigen_test.txt", "input", "gt_depth", form=form)
    train, test = (
        _listed(root / f"kitti_eigen_{part}.txt", root / "input", root / "gt_depth") for part in ("train", "test")
    )
    return DepthSet("KITTI", train, test, _kitti_metres, 0.001, 80.0, crop, (352, 1216))


def sun_rgbd(root: Path) -> DepthSet:
    """Test pictures only, for heads trained on NYUd: ``SUNRGBD_val_splits.txt``, a line is ``RGB DEPTH``."""
    require(
        root, "SUNRGBD_val_splits.txt", form="SUNRGBD_val_splits.txt, a line `RGB DEPTH` with paths below the folder"
    )
    test = _listed(root / "SUNRGBD_val_splits.txt", root, root)
    return DepthSet("SUN RGB-D", (), test, _sun_metres, 0.001, 8.0)


def visp_castle(root: Path) -> DepthSet:
    """``Castle-simu`` of visp-images-data: 40 simulated frames along a path; every fifth is a test frame.

    ``Depth_NNNN.bin``: rows and columns as 32-bit numbers, then 16-bit depths of 1/32768 m; 0 beside the castle.
    """
    require(root, "Images", "Depth", form="Castle-simu with Images/Image_NNNN.pgm and Depth/Depth_NNNN.bin")
    images = pictures(root / "Images")
    if not images:
        raise UserError("no pictures", where=str(root / "Images"))
    found = [Pair(i, root / "Depth" / f"Depth_{i.stem.removeprefix('Image_')}.bin") for i in images]
    present([pair.target for pair in found], what="ground-truth files")
    test = tuple(found[4::5])
    return DepthSet("castle", tuple(p for p in found if p not in test), test, _visp_metres, 0.001, 1.0)


def _listed(path: Path, images: Path, targets: Path) -> tuple[Pair, ...]:
    found = []
    for number, line in enumerate(lines(path), 1):
        words = line.split()
        if len(words) not in (2, 3):
            raise UserError(f"line {number} has {len(words)} words, `RGB DEPTH [FOCAL]` expected", where=str(path))
        if words[1] != "None":
            found.append(Pair(images / words[0].lstrip("/"), targets / words[1].lstrip("/")))
    if not found:
        raise UserError("no picture with ground truth", where=str(path))
    present([pair.image for pair in found], what="pictures")
    present([pair.target for pair in found], what="ground-truth files")
    return tuple(found)


def _millimetres(path: Path) -> NDArray[np.float32]:
    return np.divide(raw(path), 1000, dtype=np.float32)


def _kitti_metres(path: Path) -> NDArray[np.float32]:
    return np.divide(raw(path), 256, dtype=np.float32)


def _sun_metres(path: Path) -> NDArray[np.float32]:
    # The data set's toolbox stores millimetres with their bits rotated left by three.
    stored = raw(path).astype(np.uint16)
    return np.divide((stored >> 3) | (stored << 13), 1000, dtype=np.float32)


def _visp_metres(path: Path) -> NDArray[np.float32]:
    data = path.read_bytes()
    rows, columns = np.frombuffer(data[:8], "<u4") if len(data) >= 8 else (0, 0)
    if not rows * columns or len(data) != 8 + 2 * int(rows) * int(columns):
        raise UserError(f"{len(data)} bytes do not hold {rows} × {columns} depths", where=str(path), todo="replace it")
    stored = np.frombuffer(data[8:], "<u2").reshape(int(rows), int(columns))
    return np.divide(stored, 32768, dtype=np.float32)
