"""What a backbone sees in a few pictures of a data set: patch features as colours, and attention.

``dinov2 look`` shows more of anybody's pictures (``look_page.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from dinov2_core.evaluate import pictures
from dinov2_core.evaluate.datasets.layout import rgb
from dinov2_core.evaluate.figures import Figure
from dinov2_core.evaluate.pictures import Rgb
from dinov2_core.evaluate.segmentation import patch_multiple
from dinov2_core.model.preprocessing import Preprocessing, square
from dinov2_core.model.vision_transformer import VisionTransformer

SHOWN = 4
_SIDE, _PATCHES = 128, 24


@torch.inference_mode()
def patch_figure(backbone: VisionTransformer, preprocessing: Preprocessing, images: Sequence[Rgb]) -> Figure:
    """A row a picture: itself, its patches' three main directions, those of the subject alone, attention.

    Pictures are looked at with 24 patches a side, or the model's own size where that is larger.
    """
    patch = backbone.config.patch
    size = patch_multiple(max(_PATCHES * patch, preprocessing.size), patch)
    squares = [square(pixels, size) for pixels in images]
    maps, heads = [], []
    device = next(backbone.parameters()).device
    for pixels in squares:
        image = preprocessing.normalize(torch.from_numpy(pixels)[None]).to(device)
        maps.append(backbone(image).patches[0].float().cpu().numpy().reshape(size // patch, size // patch, -1))
        heads.append(pictures.attention_maps(backbone, image)[0].numpy().mean(axis=0))
    plain, _ = pictures.pca_colours(np.stack(maps))
    subject, _ = pictures.pca_colours(np.stack(maps), foreground=True)
    rows = [
        pictures.row([pixels.transpose(1, 2, 0), *(pictures.enlarge(p, _SIDE) for p in drawn)], side=_SIDE)
        for pixels, *drawn in zip(squares, plain, subject, map(pictures.ramp, heads), strict=True)
    ]
    caption = "a picture, its patch features as colours, those of the subject alone, and where the class token attends"
    return Figure("patches", caption, pictures.stack(rows))


def some_pictures(data: Any, count: int = SHOWN) -> list[Rgb]:
    """Up to ``count`` pictures of the test split (of a search: of the gallery), evenly chosen; none of videos."""
    if data.kind == "labelled":
        of = data.test.pictures
        read = [lambda i=i: of[i].pixels() for i in _even(len(of), count)]
    elif data.kind in ("revisited", "instances"):
        read = [lambda i=i: rgb(data.gallery[i]) for i in _even(len(data.gallery), count)]
    elif data.kind in ("segmentation", "depth"):
        read = [lambda i=i: rgb(data.test[i].image) for i in _even(len(data.test), count)]
    else:
        read = []
    return [one() for one in read]


def _even(length: int, count: int) -> list[int]:
    return sorted({int(i) for i in np.linspace(0, length - 1, min(count, length)).round()})
