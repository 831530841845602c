"""What a protocol shows beside its scores: named pictures and charts, as files. Drawing is in the modules beside."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image


@dataclass(frozen=True)
class Figure:
    """``name``: words of a file name; ``drawn``: a picture ``[H, W, 3]`` uint8, or the text of an SVG."""

    name: str
    caption: str
    drawn: NDArray[np.uint8] | str

    @property
    def suffix(self) -> str:
        return "svg" if isinstance(self.drawn, str) else "png"

    def data(self) -> bytes:
        """The file's bytes; equal figures give equal bytes."""
        if isinstance(self.drawn, str):
            return self.drawn.encode()
        out = io.BytesIO()
        Image.fromarray(self.drawn).save(out, "PNG", optimize=True)
        return out.getvalue()
