"""Making faces unrecognisable in the bytes that are written, with nothing to see at the box's edge.

Finding them is in ``faces``. Each face, with a margin, becomes a few averaged cells, smoothed: what the written
pixels hold is those averages, so no sharpening brings the face back. Only outside the margin does the original
return, feathered.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from dinov2_core.curation.faces import Face

MARGIN = 0.10
CELLS = 4
"""Averages along a face's longer side; with six a face detector still finds half the faces, with four none."""
_FEATHER = 0.15


def blur_faces(pixels: np.ndarray, faces: Sequence[Face], *, margin: float = MARGIN) -> np.ndarray:
    """uint8 H×W×3 with every face blurred; ``margin`` is the share of the box's side added at each of its sides."""
    picture = Image.fromarray(pixels)
    for face in faces:
        _blur(picture, face, margin)
    return np.asarray(picture)


def _blur(picture: Image.Image, face: Face, margin: float) -> None:
    grow_x, grow_y = round(face.w * margin) + 1, round(face.h * margin) + 1
    inner = (
        max(0, face.x - grow_x),
        max(0, face.y - grow_y),
        min(picture.width, face.x + face.w + grow_x),
        min(picture.height, face.y + face.h + grow_y),
    )
    width, height = inner[2] - inner[0], inner[3] - inner[1]
    if width <= 0 or height <= 0:
        return
    cell = max(1.0, max(width, height) / CELLS)
    cells = (max(1, round(width / cell)), max(1, round(height / cell)))
    averaged = picture.crop(inner).resize(cells, Image.Resampling.BOX)
    feather = max(1, round(max(width, height) * _FEATHER))
    outer = (
        max(0, inner[0] - feather),
        max(0, inner[1] - feather),
        min(picture.width, inner[2] + feather),
        min(picture.height, inner[3] + feather),
    )
    # Enlarged beyond the box, so that the feathered rim shows the averages and not the face.
    smooth = averaged.resize((outer[2] - outer[0], outer[3] - outer[1]), Image.Resampling.BICUBIC)
    picture.paste(smooth, outer[:2], _mask(outer, inner, feather))


def _mask(outer: tuple[int, int, int, int], inner: tuple[int, int, int, int], feather: int) -> Image.Image:
    """255 inside ``inner``, falling evenly to 0 over ``feather`` pixels around it."""
    x, y = (np.arange(outer[axis], outer[axis + 2]) for axis in (0, 1))
    away_x = np.maximum(np.maximum(inner[0] - x, x - inner[2] + 1), 0)
    away_y = np.maximum(np.maximum(inner[1] - y, y - inner[3] + 1), 0)
    away = np.hypot(away_y[:, None], away_x[None, :])
    return Image.fromarray((255 * np.clip(1 - away / (feather + 1), 0, 1)).round().astype(np.uint8))


def encode(pixels: np.ndarray, source_format: str) -> tuple[bytes, str]:
    """``(bytes, extension)``: JPEG where the source was lossy, PNG otherwise; no metadata of the source is kept."""
    out = io.BytesIO()
    picture = Image.fromarray(pixels)
    if source_format in ("JPEG", "WEBP", "AVIF"):
        picture.save(out, "JPEG", quality=92, subsampling=0)
        return out.getvalue(), "jpg"
    picture.save(out, "PNG")
    return out.getvalue(), "png"
