"""How likely an image is unsafe for work, by the open NSFW network (Mahadeokar and Pesavento, 2016).

The network sees 224×224 pixels; of a large picture it also sees tiles, so that a sheet of many photographs does not
hide one. What is done with the score does not belong here.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from PIL import Image

from dinov2_core.curation import onnx_model

_MEAN_BGR = np.array([104, 117, 123], dtype=np.float32)
_WHOLE, _CENTRE = 256, 224


class NsfwClassifier:
    """``score(pixels)`` in 0…1.

    ``tile``: side in pixels of the tiles that pictures at least twice as long are cut into; 0 for none.
    """

    def __init__(self, model: str = "nsfw", *, tile: int = 256, batch: int = 16) -> None:
        self.session = onnx_model.session(str(onnx_model.locate(model)))
        self.tile, self.batch = tile, batch

    def score(self, pixels: np.ndarray) -> float:
        """The highest score among the whole of uint8 H×W×3 ``pixels`` and its tiles."""
        return float(self.scores([pixels, *tiles(pixels, self.tile)]).max())

    def scores(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Scores of uint8 H×W×3 arrays without tiling: float32 [N]."""
        made = []
        for start in range(0, len(images), self.batch):
            batch = np.stack([_prepare(pixels) for pixels in images[start : start + self.batch]])
            made.append(onnx_model.run(self.session, batch)[0][:, 1])
        return np.concatenate(made) if made else np.zeros(0, np.float32)


def _prepare(pixels: np.ndarray) -> np.ndarray:
    whole = Image.fromarray(pixels).resize((_WHOLE, _WHOLE), Image.Resampling.BILINEAR)
    margin = (_WHOLE - _CENTRE) // 2
    centre = np.asarray(whole, dtype=np.float32)[margin : margin + _CENTRE, margin : margin + _CENTRE]
    return centre[:, :, ::-1] - _MEAN_BGR


def tiles(pixels: np.ndarray, side: int) -> list[np.ndarray]:
    """A grid of about square tiles that covers H×W×3 ``pixels`` without overlap; none where under two tiles long."""
    height, width = pixels.shape[:2]
    if side <= 0 or max(height, width) < 2 * side:
        return []
    rows = np.linspace(0, height, max(1, round(height / side)) + 1).round().astype(int)
    columns = np.linspace(0, width, max(1, round(width / side)) + 1).round().astype(int)
    return [pixels[top:bottom, left:right] for top, bottom in pairwise(rows) for left, right in pairwise(columns)]
