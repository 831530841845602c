"""Making copies of known kinds, to measure how well copies are found.

Fitting thresholds to the result is in ``copy_rule``.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps

Edit = Callable[[Image.Image, np.random.Generator], Image.Image]


def _crop(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    share = float(np.sqrt(rng.uniform(0.8, 0.95)))
    width, height = max(1, round(image.width * share)), max(1, round(image.height * share))
    left, top = int(rng.integers(image.width - width + 1)), int(rng.integers(image.height - height + 1))
    part = image.crop((left, top, left + width, top + height))
    return part.resize(image.size, Image.Resampling.BICUBIC) if rng.random() < 0.5 else part


def _resize(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    share = rng.uniform(0.6, 0.9)
    return image.resize((max(1, round(image.width * share)), max(1, round(image.height * share))))


def _jpeg(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return _encoded(image, int(rng.integers(35, 60)))


def _encoded(image: Image.Image, quality: int) -> Image.Image:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return Image.open(out).convert("RGB")


def _mirror(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return ImageOps.mirror(image)


def _colour(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    image = ImageEnhance.Color(image).enhance(rng.uniform(0.4, 1.6))
    image = ImageEnhance.Contrast(image).enhance(rng.uniform(0.7, 1.4))
    return ImageEnhance.Brightness(image).enhance(rng.uniform(0.8, 1.25))


def _blur(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(max(0.6, max(image.size) / 120)))


def _border(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    width = max(1, round(min(image.size) * rng.uniform(0.05, 0.12)))
    red, green, blue = (int(v) for v in rng.integers(0, 256, 3))
    return ImageOps.expand(image, width, (red, green, blue))


def _overlay(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    image = image.copy()
    font = ImageFont.load_default(size=max(6, min(image.size) // 6))
    place = (image.width * rng.uniform(0.05, 0.3), image.height * rng.uniform(0.05, 0.75))
    red, green, blue = (int(v) for v in rng.integers(0, 256, 3))
    ImageDraw.Draw(image).text(place, "copy", fill=(red, green, blue), font=font)
    return image


EDITS: Mapping[str, Edit] = {
    "crop": _crop,
    "resize": _resize,
    "jpeg": _jpeg,
    "mirror": _mirror,
    "colour": _colour,
    "blur": _blur,
    "border": _border,
    "overlay": _overlay,
}
"""Kinds of copies that a web crawl brings; strengths are drawn."""


def plant(pixels: np.ndarray, kind: str, seed: int) -> np.ndarray:
    """A copy of uint8 H×W×3 ``pixels``: uint8 H'×W'×3, the same for the same seed.

    Whatever was done to it, a copy on the web was saved once more; small pictures suffer from that most.
    """
    rng = np.random.default_rng(seed)
    made = EDITS[kind](Image.fromarray(pixels), rng)
    return np.asarray(made if kind == "jpeg" else _encoded(made, int(rng.integers(80, 96))))
