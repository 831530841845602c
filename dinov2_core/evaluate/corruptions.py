"""Fifteen corruptions at five severities in the manner of ImageNet-C, made when only clean images are there.

Written from the published description (Hendrycks & Dietterich, arXiv 1903.12261). They are not ImageNet-C: parameters
are those of :data:`SEVERITIES`, lengths in pixels of a 224-pixel image; textures of frost and snow are computed, where
the original has photographs. Scores stand beside each other, not beside those on the official files. Equal input,
severity and seed give equal output.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

Floats = NDArray[np.float64]
Corrupt = Callable[[Floats, float, np.random.Generator], Floats]
"""``(pixels [H, W, 3] in 0 to 1, severity parameter, generator) → pixels``."""


def gaussian_noise(x: Floats, sigma: float, rng: np.random.Generator) -> Floats:
    """Sensor noise; ``sigma`` in units of the range."""
    return x + rng.normal(0, sigma, x.shape)


def shot_noise(x: Floats, photons: float, rng: np.random.Generator) -> Floats:
    """Counting noise at ``photons`` for white."""
    return rng.poisson(np.clip(x, 0, 1) * photons) / photons


def impulse_noise(x: Floats, share: float, rng: np.random.Generator) -> Floats:
    """A ``share`` of the values becomes black or white."""
    draw = rng.random(x.shape)
    return np.where(draw < share / 2, 0.0, np.where(draw < share, 1.0, x))


def defocus_blur(x: Floats, radius: float, rng: np.random.Generator) -> Floats:
    """A disk of ``radius`` pixels."""
    rows, columns = np.mgrid[-1:1:41j, -1:1:41j] * radius
    inside = np.hypot(rows, columns) <= radius
    return _filtered(x, _kernel(rows[inside], columns[inside]))


def glass_blur(x: Floats, reach: float, rng: np.random.Generator) -> Floats:
    """Each pixel is taken from a place within ``reach`` pixels, between two soft blurs."""
    sigma = (0.4 * reach, 0.4 * reach, 0)
    soft = ndimage.gaussian_filter(x, sigma)
    # Fractions of a pixel count: on small images all reaches are below one.
    where = np.mgrid[: x.shape[0], : x.shape[1]] + rng.uniform(-reach, reach, (2, *x.shape[:2]))
    return ndimage.gaussian_filter(_taken(soft, where), sigma)


def motion_blur(x: Floats, length: float, rng: np.random.Generator) -> Floats:
    """A line of ``length`` pixels at an angle within 45° of the horizontal."""
    return _filtered(x, _line(length, rng.uniform(-np.pi / 4, np.pi / 4)))


def zoom_blur(x: Floats, zoom: float, rng: np.random.Generator) -> Floats:
    """The mean of the image at magnifications from 1 to ``zoom``."""
    steps = np.linspace(1, zoom, 8)
    return np.asarray(np.mean([_zoomed(x, step) for step in steps], axis=0))


def snow(x: Floats, amount: float, rng: np.random.Generator) -> Floats:
    """Flakes smeared along a slanted line over a paler image."""
    flakes = np.clip(rng.normal(0.5, 0.3, x.shape[:2]) - (0.95 - amount / 2), 0, 1)
    smeared = ndimage.convolve(flakes, _line(9, rng.uniform(np.pi / 4, 3 * np.pi / 4)), mode="reflect") * 6
    grey = np.maximum(x, x.mean(axis=2, keepdims=True) * 1.5 + 0.25)
    return (1 - amount / 2) * x + amount / 2 * grey + smeared[..., None]


def frost(x: Floats, amount: float, rng: np.random.Generator) -> Floats:
    """A crystalline texture, ``amount`` of its weight."""
    ridge = 1 - np.abs(2 * _plasma(x.shape[:2], 1.6, rng) - 1)
    ice = ridge[..., None] ** 2 * np.array([0.85, 0.95, 1.0])
    return (1 - amount * 0.6) * x + amount * ice


def fog(x: Floats, amount: float, rng: np.random.Generator) -> Floats:
    """Plasma of weight ``amount``; the brightest point stays as bright."""
    top = max(float(x.max()), 1e-6)
    return (x + amount * _plasma(x.shape[:2], 2.0, rng)[..., None]) * top / (top + amount)


def brightness(x: Floats, amount: float, rng: np.random.Generator) -> Floats:
    """``amount`` is added to the value of HSV."""
    value = x.max(axis=2, keepdims=True)
    new = np.clip(value + amount, 0, 1)
    return np.where(value > 0, x * new / np.maximum(value, 1e-6), new)


def contrast(x: Floats, factor: float, rng: np.random.Generator) -> Floats:
    """Distances from the mean colour times ``factor``."""
    mean = x.mean(axis=(0, 1), keepdims=True)
    return (x - mean) * factor + mean


def elastic_transform(x: Floats, amount: float, rng: np.random.Generator) -> Floats:
    """A smooth random displacement of ``amount`` pixels (root mean square)."""
    shifts = ndimage.gaussian_filter(rng.uniform(-1, 1, (2, *x.shape[:2])), (0, 6, 6))
    shifts *= amount / max(float(np.sqrt((shifts**2).mean())), 1e-12)
    where = np.mgrid[: x.shape[0], : x.shape[1]] + shifts
    return _taken(x, where)


def pixelate(x: Floats, share: float, rng: np.random.Generator) -> Floats:
    """Down to ``share`` of the sides and back."""
    image, (height, width) = _image(x), x.shape[:2]
    small = image.resize((max(1, int(width * share)), max(1, int(height * share))), Image.Resampling.BOX)
    return np.asarray(small.resize((width, height), Image.Resampling.NEAREST)) / 255


def jpeg_compression(x: Floats, quality: float, rng: np.random.Generator) -> Floats:
    """Through JPEG at ``quality``."""
    buffer = io.BytesIO()
    _image(x).save(buffer, "JPEG", quality=int(quality))
    return np.asarray(Image.open(buffer).convert("RGB")) / 255


SEVERITIES: Mapping[str, tuple[Corrupt, tuple[float, float, float, float, float]]] = {
    "gaussian_noise": (gaussian_noise, (0.08, 0.12, 0.18, 0.26, 0.38)),
    "shot_noise": (shot_noise, (60, 25, 12, 5, 3)),
    "impulse_noise": (impulse_noise, (0.03, 0.06, 0.09, 0.17, 0.27)),
    "defocus_blur": (defocus_blur, (3, 4, 6, 8, 10)),
    "glass_blur": (glass_blur, (1, 1.5, 2, 3, 4)),
    "motion_blur": (motion_blur, (10, 12, 15, 20, 25)),
    "zoom_blur": (zoom_blur, (1.11, 1.16, 1.21, 1.26, 1.31)),
    "snow": (snow, (0.2, 0.35, 0.5, 0.65, 0.8)),
    "frost": (frost, (0.35, 0.5, 0.6, 0.7, 0.8)),
    "fog": (fog, (1.5, 2.0, 2.5, 2.75, 3.0)),
    "brightness": (brightness, (0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": (contrast, (0.4, 0.3, 0.2, 0.1, 0.05)),
    "elastic_transform": (elastic_transform, (1.5, 2.5, 3.5, 4.5, 6.0)),
    "pixelate": (pixelate, (0.6, 0.5, 0.4, 0.3, 0.25)),
    "jpeg_compression": (jpeg_compression, (25, 18, 15, 10, 7)),
}
"""Corruption → its function and the parameter at severity 1 to 5."""
_IN_PIXELS = ("defocus_blur", "glass_blur", "motion_blur", "elastic_transform")


def corrupt(pixels: NDArray[np.uint8], name: str, severity: int, *, seed: int = 0) -> NDArray[np.uint8]:
    """``[H, W, 3]`` uint8 → the same shape; lengths scale with the shorter side (224 is 1).

    Raises:
        KeyError: no such corruption; ValueError: severity outside 1 to 5.
    """
    function, parameters = SEVERITIES[name]
    if not 1 <= severity <= 5:
        raise ValueError(f"severity {severity} is outside 1 to 5")
    value = parameters[severity - 1]
    if name in _IN_PIXELS:
        value = value * min(pixels.shape[:2]) / 224
    rng = np.random.default_rng([seed, severity, list(SEVERITIES).index(name)])
    return (np.clip(function(pixels / 255, value, rng), 0, 1) * 255).round().astype(np.uint8)


def _filtered(x: Floats, kernel: Floats) -> Floats:
    return np.stack([ndimage.convolve(x[..., c], kernel, mode="reflect") for c in range(3)], axis=2)


def _taken(x: Floats, where: Floats) -> Floats:
    """Pixels read at ``where [2, H, W]``, between pixels by proportion."""
    return np.stack([ndimage.map_coordinates(x[..., c], where, order=1, mode="reflect") for c in range(3)], axis=2)


def _line(length: float, angle: float) -> Floats:
    along = np.linspace(-length / 2, length / 2, 8 * int(np.ceil(length)) + 1)
    return _kernel(along * np.sin(angle), along * np.cos(angle))


def _kernel(rows: Floats, columns: Floats) -> Floats:
    """Equal weight at each point, shared among the four pixels around it."""
    reach = int(np.ceil(max(np.abs(rows).max(), np.abs(columns).max()))) + 1
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1))
    top, left = np.floor(rows).astype(int), np.floor(columns).astype(int)
    for down in (0, 1):
        for right in (0, 1):
            weight = (1 - np.abs(rows - top - down)) * (1 - np.abs(columns - left - right))
            np.add.at(kernel, (top + down + reach, left + right + reach), weight)
    return kernel / kernel.sum()


def _zoomed(x: Floats, zoom: float) -> Floats:
    height, width = x.shape[:2]
    w, h = width / zoom, height / zoom
    box = ((width - w) / 2, (height - h) / 2, (width + w) / 2, (height + h) / 2)
    return np.asarray(_image(x).resize((width, height), Image.Resampling.BILINEAR, box=box)) / 255


def _plasma(shape: tuple[int, ...], roughness: float, rng: np.random.Generator) -> Floats:
    """Noise whose amplitude falls with the frequency to the power ``roughness``, in 0 to 1."""
    rows, columns = np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1])[None]
    frequency = np.hypot(rows, columns)
    frequency[0, 0] = 1.0
    noise = np.fft.ifft2(np.fft.fft2(rng.normal(size=shape)) / frequency**roughness).real
    low, high = noise.min(), noise.max()
    return (noise - low) / max(high - low, 1e-12)


def _image(x: Floats) -> Image.Image:
    return Image.fromarray((np.clip(x, 0, 1) * 255).round().astype(np.uint8))
