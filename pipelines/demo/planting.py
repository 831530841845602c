"""Planted copies: known transformations of known pictures, so that a stage's recall can be stated.

Each takes and gives an RGB image and is deterministic given its generator. Names are what the truth table and the
report print.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps

from pipelines.demo.pictures import encode

Change = Callable[[Image.Image, np.random.Generator], Image.Image]


def crop(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """85 % of each side, anywhere, brought back to the old size."""
    width, height = round(image.width * 0.85), round(image.height * 0.85)
    left, top = int(rng.integers(0, image.width - width + 1)), int(rng.integers(0, image.height - height + 1))
    return image.crop((left, top, left + width, top + height)).resize(image.size, Image.Resampling.BICUBIC)


def resize(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Another size, up or down."""
    factor = float(rng.choice([0.75, 1.5]))
    return image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC)


def flip(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Mirrored left to right."""
    return ImageOps.mirror(image)


def colour(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Brightness, contrast and saturation, up to 30 % each way."""
    for kind in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = kind(image).enhance(float(rng.uniform(0.75, 1.3)))
    return image


def blur(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A Gaussian of about 2 % of the side."""
    return image.filter(ImageFilter.GaussianBlur(max(0.6, 0.008 * max(image.size))))


def border(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A frame of 6 % in one colour."""
    return ImageOps.expand(image, max(1, round(0.06 * min(image.size))), tuple(int(v) for v in rng.integers(0, 256, 3)))


def text(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A small caption."""
    made = image.copy()
    size = max(6, round(0.09 * image.height))
    font = ImageFont.load_default(size)
    ImageDraw.Draw(made).text((2, image.height - size - 2), "© me", fill=(255, 255, 255), font=font)
    return made


def jpeg(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """JPEG at quality 40 (the encoding itself is done by :func:`encoded`)."""
    return image


CHANGES: dict[str, Change] = {
    "crop": crop,
    "resize": resize,
    "jpeg": jpeg,
    "flip": flip,
    "colour": colour,
    "blur": blur,
    "border": border,
    "text": text,
}
LIGHT = ("resize", "jpeg", "colour", "text")
"""Changes that leave the picture as it was for a person: what a benchmark picture on a web page has been through."""


def planted(image: Image.Image, name: str, rng: np.random.Generator) -> bytes:
    """The encoded copy of ``image`` under the change ``name``."""
    made = CHANGES[name](image, rng)
    return encode(made, "JPEG", quality=40 if name == "jpeg" else 92)
