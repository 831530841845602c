"""How likely an image is unsafe for work, by the open NSFW network (Mahadeokar and Pesavento, 2016).

The network was trained on 224×224 pixels. Of a large picture it also sees tiles, so that a sheet of many photographs
does not hide one. A tiny picture is first seen at 128×128 (the network is convolutional up to its pooling), for a
third of the work, and again at 224 only where that leaves a doubt. What is done with the score does not belong here.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import onnx
from PIL import Image

from dinov2_core.curation import onnx_model

_MEAN_BGR = np.array([104, 117, 123], dtype=np.float32)
_SIDE, _TINY_SIDE, _TINY = 224, 128, 64
_FRAME = 256 / 224
"""Resized to this much more than what is looked at: the reference preprocessing drops the frame."""
_DOUBT = 0.3


class NsfwClassifier:
    """``score(pixels)`` in 0…1.

    ``tile``: side in pixels of the tiles that pictures at least twice as long are cut into; 0 for none.
    """

    def __init__(self, model: str = "nsfw", *, tile: int = 256, batch: int = 16) -> None:
        self.session = onnx_model.session(str(onnx_model.locate(model)), _free_size)
        self.tile, self.batch = tile, batch

    def score(self, pixels: np.ndarray) -> float:
        """The highest score among the whole of uint8 H×W×3 ``pixels`` and its tiles."""
        return float(self.scores([pixels, *tiles(pixels, self.tile)]).max())

    def scores(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Scores of uint8 H×W×3 arrays without tiling: float32 [N]."""
        found = np.ones(len(images), np.float32)
        tiny = np.array([max(pixels.shape[:2]) <= _TINY for pixels in images], dtype=bool)
        self._fill(found, images, np.flatnonzero(tiny), _TINY_SIDE)
        self._fill(found, images, np.flatnonzero(found >= _DOUBT), _SIDE)
        return found

    def _fill(self, found: np.ndarray, images: Sequence[np.ndarray], chosen: np.ndarray, side: int) -> None:
        for start in range(0, len(chosen), self.batch):
            some = chosen[start : start + self.batch]
            batch = np.stack([_prepare(images[i], side) for i in some])
            found[some] = onnx_model.run(self.session, batch)[0][:, 1]


def _free_size(model: onnx.ModelProto) -> None:
    """Let the graph take any side: its last pooling is over the whole map, but states 7×7."""
    onnx_model.free_axes(model, (1, 2))
    last = [node for node in model.graph.node if node.op_type == "AveragePool"][-1]
    last.op_type = "GlobalAveragePool"
    del last.attribute[:]


def _prepare(pixels: np.ndarray, side: int) -> np.ndarray:
    framed = round(side * _FRAME)
    whole = Image.fromarray(pixels).resize((framed, framed), Image.Resampling.BILINEAR)
    margin = (framed - side) // 2
    centre = np.asarray(whole, dtype=np.float32)[margin : margin + side, margin : margin + side]
    return centre[:, :, ::-1] - _MEAN_BGR


def tiles(pixels: np.ndarray, side: int) -> list[np.ndarray]:
    """A grid of about square tiles that covers H×W×3 ``pixels`` without overlap; none where under two tiles long."""
    height, width = pixels.shape[:2]
    if side <= 0 or max(height, width) < 2 * side:
        return []
    rows = np.linspace(0, height, max(1, round(height / side)) + 1).round().astype(int)
    columns = np.linspace(0, width, max(1, round(width / side)) + 1).round().astype(int)
    return [pixels[top:bottom, left:right] for top, bottom in pairwise(rows) for left, right in pairwise(columns)]
