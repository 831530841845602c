"""Every data set that can be named, by name: ``dinov2 evaluate --data NAME=PATH`` opens it from here.

What a set's folder looks like is in the modules beside this one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dinov2_core.errors import UserError, nearest
from dinov2_core.evaluate.beyond_protocol import OodSet
from dinov2_core.evaluate.datasets import davis, depth, folder, retrieval, segmentation, solar_cells, transfer, video
from dinov2_core.evaluate.datasets.labelled import Picture, Split
from dinov2_core.evaluate.datasets.layout import pictures, require


def unknown(root: Path) -> OodSet:
    """A ``folder`` of labelled images, and foreign pictures below ``outside/``.

    Raises:
        UserError: naming what is missing.
    """
    require(root, "outside", form=f"outside/ with pictures, beside {folder.FORM}")
    found = pictures(root / "outside", deep=True)
    if not found:
        raise UserError("no picture", where=str(root / "outside"), todo="give pictures of nothing that train shows")
    foreign = Split("outside", tuple(Picture(str(p)) for p in found), np.zeros(len(found), np.int64))
    return OodSet(root.name, folder.load(root), foreign)


Opener = Callable[[Path], Any]
BY_KIND: Mapping[str, Mapping[str, Opener]] = {
    "labelled": {**transfer.SETS, "solar-cells": solar_cells.load},
    "revisited": {name: partial(retrieval.revisited, name=name) for name in ("roxford5k", "rparis6k")},
    "instances": {
        "met": retrieval.met,
        "amstertime": retrieval.amstertime,
        "instances": partial(retrieval.takes, gallery="gallery", queries="queries"),
    },
    "segmentation": {
        "ade20k": segmentation.ade20k,
        "cityscapes": segmentation.cityscapes,
        "voc2012": segmentation.voc2012,
        "masks": segmentation.folder,
    },
    "depth": {"nyu": depth.nyu, "kitti": depth.kitti, "sun-rgbd": depth.sun_rgbd, "castle": depth.visp_castle},
    "video": {
        "ucf101": video.ucf101,
        "kinetics400": video.kinetics400,
        "ssv2": video.ssv2,
        "clips": video.folder,
    },
    "tracking": {"davis": davis.davis},
    "ood": {"unknown": unknown},
}
"""Kind of data (what a protocol needs) → name of a set → what opens its folder."""
OPENERS: Mapping[str, Opener] = {name: opener for sets in BY_KIND.values() for name, opener in sets.items()}


def load(name: str, root: Path) -> Any:
    """The set called ``name`` at ``root``.

    Raises:
        UserError: no such set, or naming what is missing.
    """
    if name not in OPENERS:
        raise UserError(f"no data set '{name}'{nearest(name, OPENERS)}", todo=f"one of {', '.join(OPENERS)}")
    return OPENERS[name](root)
