"""Making copies of known kinds, to measure how well copies are found.

Fitting thresholds to the result is in ``copy_rule``.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, get_args

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps

Strength = Literal["mild", "medium", "strong"]
STRENGTHS: tuple[Strength, ...] = get_args(Strength)
Edit = Callable[[Image.Image, np.random.Generator, Strength], Image.Image]
Range = tuple[float, float]

CROPPED: Mapping[Strength, Range] = {"mild": (0.8, 0.95), "medium": (0.6, 0.75), "strong": (0.4, 0.55)}
"""Shares of the area that a crop leaves."""
RESIZED: Mapping[Strength, Range] = {"mild": (0.6, 0.9), "medium": (0.35, 0.5), "strong": (0.15, 0.25)}
"""Shares of the sides."""
QUALITY: Mapping[Strength, tuple[int, int]] = {"mild": (35, 60), "medium": (20, 30), "strong": (8, 15)}
"""Of JPEG."""
COLOURED: Mapping[Strength, tuple[Range, Range, Range]] = {
    "mild": ((0.4, 1.6), (0.7, 1.4), (0.8, 1.25)),
    "medium": ((0.0, 2.0), (0.55, 1.6), (0.65, 1.45)),
    "strong": ((0.0, 2.5), (0.4, 2.0), (0.5, 1.7)),
}
"""Factors on saturation, contrast and brightness; saturation 0 is grey."""
BLURRED: Mapping[Strength, float] = {"mild": 1 / 120, "medium": 1 / 70, "strong": 1 / 40}
"""Radius as a share of the longer side."""
BORDERED: Mapping[Strength, Range] = {"mild": (0.05, 0.12), "medium": (0.15, 0.22), "strong": (0.25, 0.35)}
"""Width on every side as a share of the shorter one."""
WRITTEN: Mapping[Strength, tuple[int, int]] = {"mild": (1, 6), "medium": (2, 5), "strong": (4, 4)}
"""How many words, and which part of the shorter side their letters are high."""
TURNED: Mapping[Strength, Range] = {"mild": (2, 5), "medium": (8, 15), "strong": (20, 30)}
"""Degrees either way; the corners that open are filled with one colour."""


def _crop(image: Image.Image, rng: np.random.Generator, strength: Strength) -> Image.Image:
    share = float(np.sqrt(rng.uniform(*CROPPED[strength])))
    width, height = max(1, round(image.width * share)), max(1, round(image.height * share))
    left, top = int(rng.integers(image.width - width + 1)), int(rng.integers(image.height - height + 1))
    part = image.crop((left, top, left + width, top + height))
    return part.resize(image.size, Image.Resampling.BICUBIC) if rng.random() < 0.5 else part


def _resize(image: Image.Image, rng: np.random.Generator, strength: Strength) -> Image.Image:
    share = rng.uniform(*RESIZED[strength])
    return image.resize((max(1, round(image.width * share)), max(1, round(image.height * share))))


def _jpeg(image: Image.Image, rng: np.random.Generator, strength: Strength) -> Image.Image:
    return _encoded(image, int(rng.integers(*QUALITY[strength])))


def _encoded(image: Image.Image, quality: int) -> Image.Image:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return Image.open(out).convert("RGB")


def _mirror(image: Image.Image, rng: np.random.Generator, strength: Strength) -> Image.Image:
    """Mirroring has no strength of its own: stronger ones crop as well."""
    mirrored = ImageOps.mirror(image)
    return mirrored if strength == "mild" else _crop(mirrored, rng, "mild" if strength == "medium" else "medium")


def _colour(image: Image.Image, rng: np.random.Generator, strength: Strength) -> Image.Image:
    saturation, contrast, brightness = COLOURED[strength]
    image = ImageEnhance.Color(image).enhance(rng.uniform(*saturation))
    image = ImageEnhance.Contrast(image).enhance(rng.uniform(*contrast))
    return ImageEnhance.Brightness(image).enhance(rng.uniform(*brightness))


def _blur(image: Image.Image, rng: np.random.Generator, strength: Strength) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(max(0.6, max(image.size) * BLURRED[strength])))


def _border(image: Image.Image, rng: np.random.Generator, strength: Strength) -> Image.Image:
    width = max(1, round(min(image.size) * rng.uniform(*BORDERED[strength])))
    return ImageOps.expand(image, width, _any_colour(rng))


def _overlay(image: Image.Image, rng: np.random.Generator, strength: Strength) -> Image.Image:
    image = image.copy()
    words, part = WRITTEN[strength]
    font = ImageFont.load_default(size=max(6, min(image.size) // part))
    for _ in range(words):
        place = (image.width * rng.uniform(0.05, 0.3), image.height * rng.uniform(0.05, 0.75))
        ImageDraw.Draw(image).text(place, "copy", fill=_any_colour(rng), font=font)
    return image


def _rotation(image: Image.Image, rng: np.random.Generator, strength: Strength) -> Image.Image:
    angle = rng.uniform(*TURNED[strength]) * (1 if rng.random() < 0.5 else -1)
    return image.rotate(angle, Image.Resampling.BICUBIC, fillcolor=_any_colour(rng))


def _any_colour(rng: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = (int(v) for v in rng.integers(0, 256, 3))
    return red, green, blue


EDITS: Mapping[str, Edit] = {
    "crop": _crop,
    "resize": _resize,
    "jpeg": _jpeg,
    "mirror": _mirror,
    "colour": _colour,
    "blur": _blur,
    "border": _border,
    "overlay": _overlay,
    "rotation": _rotation,
}
"""Kinds of copies that a web crawl brings."""


ALIGNABLE = tuple(kind for kind in EDITS if kind != "rotation")
"""Kinds that ``alignment.correlation`` sees through: a rule fitted to others as well would give way for nothing."""


def kind_of(image: int, turn: int, kinds: Sequence[str] = tuple(EDITS)) -> str:
    """A kind for the copy number ``turn`` (0 or 1) of an image: every pair of kinds in turn, never one kind twice."""
    count = len(kinds)
    return kinds[(image + turn * (1 + image // count % (count - 1))) % count]


def plant(pixels: np.ndarray, kind: str, seed: int, strength: Strength = "mild") -> np.ndarray:
    """A copy of uint8 H×W×3 ``pixels``: uint8 H'×W'×3, the same for the same seed.

    Whatever was done to it, a copy on the web was saved once more; small pictures suffer from that most.
    """
    rng = np.random.default_rng(seed)
    made = EDITS[kind](Image.fromarray(pixels), rng, strength)
    return np.asarray(made if kind == "jpeg" else _encoded(made, int(rng.integers(80, 96))))
