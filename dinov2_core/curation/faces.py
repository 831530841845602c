"""Where faces are, by CenterFace (Xu et al., 2019, arXiv 1911.03599): boxes with scores, at two scales.

Blurring them is in ``blur``; nobody is recognised.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from PIL import Image

from dinov2_core.curation import onnx_model

_STRIDE, _MULTIPLE = 4, 32
_TINY, _TINY_SIDE = 64, 96


@dataclass(frozen=True)
class Face:
    """A box in pixels of the upright image, ``x, y`` its upper left corner; ``score`` in 0…1."""

    x: int
    y: int
    w: int
    h: int
    score: float


class FaceDetector:
    """``find(pixels)`` at the sides given by :func:`scales`; boxes that overlap by ``overlap`` (IoU) are one."""

    def __init__(
        self, model: str = "centerface", *, threshold: float = 0.5, overlap: float = 0.3, max_side: int = 1280
    ) -> None:
        self.session = onnx_model.session(str(onnx_model.locate(model)), _free_size)
        self.threshold, self.overlap, self.max_side = threshold, overlap, max_side

    def find(self, pixels: np.ndarray) -> list[Face]:
        """Faces in uint8 H×W×3 ``pixels``, best first."""
        height, width = pixels.shape[:2]
        boxes = np.concatenate([self._at(pixels, side) for side in scales(height, width, self.max_side)])
        boxes[:, [0, 2]] = boxes[:, [0, 2]].clip(0, width)
        boxes[:, [1, 3]] = boxes[:, [1, 3]].clip(0, height)
        kept = boxes[suppress(boxes, self.overlap)]
        faces = []
        for left, top, right, bottom, score in kept.tolist():
            x, y = int(np.floor(left)), int(np.floor(top))
            w, h = int(np.ceil(right)) - x, int(np.ceil(bottom)) - y
            if w > 0 and h > 0:
                faces.append(Face(x, y, w, h, float(score)))
        return faces

    def _at(self, pixels: np.ndarray, side: int) -> np.ndarray:
        """Boxes found with the long side at ``side``: float64 [K, 5], left, top, right, bottom, score."""
        height, width = pixels.shape[:2]
        scale = side / max(height, width)
        new_w, new_h = (max(_MULTIPLE, round(v * scale / _MULTIPLE) * _MULTIPLE) for v in (width, height))
        resized = Image.fromarray(pixels).resize((new_w, new_h), Image.Resampling.BILINEAR)
        batch = np.asarray(resized, dtype=np.float32).transpose(2, 0, 1)[None]
        heat, size, offset = (output[0] for output in onnx_model.run(self.session, np.ascontiguousarray(batch))[:3])
        rows, columns = np.nonzero(heat[0] > self.threshold)
        h, w = (np.exp(size[axis, rows, columns].astype(np.float64)) * _STRIDE for axis in (0, 1))
        y = (rows + offset[0, rows, columns] + 0.5) * _STRIDE
        x = (columns + offset[1, rows, columns] + 0.5) * _STRIDE
        boxes = np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2, heat[0, rows, columns]], axis=1)
        boxes[:, [0, 2]] *= width / new_w
        boxes[:, [1, 3]] *= height / new_h
        return boxes


def _free_size(model: onnx.ModelProto) -> None:
    onnx_model.free_axes(model, (0, 2, 3))


def scales(height: int, width: int, max_side: int = 1280) -> list[int]:
    """Long sides at which a picture is searched: as it is and at half, or enlarged once where it is tiny."""
    long = max(height, width)
    if long < _TINY:
        return [_TINY_SIDE]
    top = min(long, max_side)
    return [top, top // 2] if top >= 256 else [max(top, 128), 256]


def suppress(boxes: np.ndarray, overlap: float) -> np.ndarray:
    """Non-maximum suppression of [K, 5] boxes: indices of those kept, best first (ties by position)."""
    order = np.lexsort((boxes[:, 0], boxes[:, 1], -boxes[:, 4]))
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept: list[int] = []
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(int(best))
        low = np.maximum(boxes[rest, :2], boxes[best, :2])
        high = np.minimum(boxes[rest, 2:4], boxes[best, 2:4])
        shared = np.prod((high - low).clip(0), axis=1)
        order = rest[shared < overlap * (areas[rest] + areas[best] - shared)]
    return np.array(kept, dtype=np.int64)
