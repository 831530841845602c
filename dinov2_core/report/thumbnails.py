"""Stored images as small ``data:`` URIs for a page. Which images are shown, and veiled, is decided elsewhere."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from PIL import Image, ImageFilter

from dinov2_core.images.decode import Refused, decode
from dinov2_core.images.shards import read_image
from dinov2_core.storage import Store

SIDE = 112
"""Longer side of a thumbnail in pixels; smaller images are kept as they are."""
_LOSSLESS = 48
_VEIL = 9


@dataclass(frozen=True)
class Thumbnail:
    """``source``: a ``data:`` URI, empty where the image does not decode; ``width``, ``height`` in pixels."""

    source: str
    width: int
    height: int

    @property
    def tiny(self) -> bool:
        """Whether it is so small that a page should enlarge it, pixel by pixel."""
        return max(self.width, self.height) <= _LOSSLESS


@dataclass
class Thumbnails:
    """Reads images of ``store`` and makes each thumbnail once."""

    store: Store
    made: dict[tuple[str, int, bool], Thumbnail] = field(default_factory=dict)

    def of(self, location: Mapping[str, Any], *, veiled: bool = False) -> Thumbnail:
        """The thumbnail of the image at ``location`` (``shard``, ``offset``, ``length``).

        ``veiled`` leaves nothing but a few patches of colour: nine along the longer side.
        """
        key = (location["shard"], location["offset"], veiled)
        if key not in self.made:
            self.made[key] = make(read_image(self.store, location), veiled=veiled)
        return self.made[key]


def make(data: bytes, *, veiled: bool = False) -> Thumbnail:
    """The thumbnail of encoded image bytes; equal bytes give equal thumbnails."""
    decoded = decode(data)
    if isinstance(decoded, Refused):
        return Thumbnail("", SIDE, SIDE)
    image = Image.fromarray(decoded.pixels)
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    if veiled:
        image = _veil(image)
    # A picture of a few pixels is shown enlarged: compression would show as well.
    small = max(image.size) <= _LOSSLESS
    out = io.BytesIO()
    if small:
        image.save(out, "PNG", optimize=True)
    else:
        image.save(out, "JPEG", quality=82, optimize=True)
    text = base64.b64encode(out.getvalue()).decode()
    return Thumbnail(f"data:image/{'png' if small else 'jpeg'};base64,{text}", *image.size)


def _veil(image: Image.Image) -> Image.Image:
    # Thrown away, not smeared: what is below a few pixels cannot be sharpened back.
    few = image.copy()
    few.thumbnail((_VEIL, _VEIL), Image.Resampling.BOX)
    size = (SIDE, max(1, round(SIDE * image.height / image.width)))
    if image.height > image.width:
        size = (max(1, round(SIDE * image.width / image.height)), SIDE)
    return few.resize(size, Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(4))
