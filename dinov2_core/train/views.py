"""What is drawn for every crop of a batch: its box, flip, colours, blur and solarisation, as plain numbers.

The numbers of one image depend on the seed and its row in the global batch alone, so any worker, process or device can
draw its own part, and all of them agree. What the numbers do to pixels is in ``augmentation`` (batched tensors) and in
``image_crops`` (one decoded image).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinov2_core.train.recipe import CropConfig

_ASPECT = (3 / 4, 4 / 3)
_TRIES = 10
_OTHERS = 12
_DRAWS = 2 * _TRIES + _OTHERS
"""Uniform numbers a view: area and aspect of each try, then one for everything else."""

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Views:
    """The parameters of ``[n, V]`` views of n images; views 0 and 1 are the global crops, the rest local ones."""

    boxes: Floats
    """``[n, V, 4]``: top, left, height, width in pixels, not rounded"""
    flip: Bools
    light: Floats
    """brightness factor; 1 where colours stay"""
    spread: Floats
    """contrast factor"""
    colour: Floats
    """saturation factor"""
    turn: Floats
    """hue shift in turns of the colour circle"""
    gray: Bools
    sigma: Floats
    """deviation of the blur in pixels, 0 where there is none"""
    solarize: Bools

    def __getitem__(self, key: object) -> Views:
        """A part of the views, as an index of ``[n, V]``."""
        return Views(*(getattr(self, one.name)[key] for one in fields(self)))

    def scaled(self, factor: Floats) -> Views:
        """The same views of images resized by ``factor`` (broadcast over boxes)."""
        return replace(self, boxes=self.boxes * factor)

    def by_view(self) -> Views:
        """``[n, V]`` → ``[V · n]``: all images' first view, then all images' second, …"""
        return Views(*(_by_view(getattr(self, one.name)) for one in fields(self)))


def _by_view(values: NDArray[Any]) -> NDArray[Any]:
    swapped = values.swapaxes(0, 1)
    return swapped.reshape(swapped.shape[0] * swapped.shape[1], *swapped.shape[2:])


def draw(crops: CropConfig, seed: int, rows: range, sizes: NDArray[np.integer]) -> Views:
    """The views of the images at ``rows`` of the global batch.

    Args:
        seed: of this step.
        sizes: ``[n, 2]``, height and width of each image in pixels.
    """
    views = 2 + crops.locals
    # One draw is one step of the generator, so it can be set to where these rows begin.
    source = np.random.PCG64(seed)
    source.advance(rows.start * views * _DRAWS)
    u = np.random.Generator(source).random((len(rows), views, _DRAWS))
    tries, (x, y, flip, jitter, light, spread, colour, turn, gray, blur, sigma, solarize) = (
        u[..., : 2 * _TRIES].reshape(len(rows), views, 2, _TRIES),
        np.moveaxis(u[..., 2 * _TRIES :], -1, 0),
    )
    jittered = jitter < crops.jitter_probability
    brightness, contrast, saturation, hue = crops.jitter
    blurs = crops.blur_probabilities
    blurred = blur < np.array([blurs[0], blurs[1], *[blurs[2]] * crops.locals])
    return Views(
        boxes=_boxes(crops, tries, x, y, np.asarray(sizes, dtype=np.float64)),
        flip=flip < crops.flip,
        light=_factor(light, brightness, jittered),
        spread=_factor(spread, contrast, jittered),
        colour=_factor(colour, saturation, jittered),
        turn=np.where(jittered, (2 * turn - 1) * hue, 0.0),
        gray=gray < crops.gray,
        sigma=np.where(blurred, crops.blur_sigma[0] + sigma * (crops.blur_sigma[1] - crops.blur_sigma[0]), 0.0),
        solarize=solarize < np.array([0.0, crops.solarize, *[0.0] * crops.locals]),
    )


def _factor(u: Floats, strength: float, where: Bools) -> Floats:
    low = max(0.0, 1 - strength)
    return np.where(where, low + u * (1 + strength - low), 1.0)


def _boxes(crops: CropConfig, tries: Floats, x: Floats, y: Floats, sizes: Floats) -> Floats:
    """The random resized crop of torchvision: the first of ten draws of area and aspect that fits, else the centre."""
    low, high = (
        np.array([crops.global_scale[end]] * 2 + [crops.local_scale[end]] * crops.locals)[:, None] for end in (0, 1)
    )
    height, width = sizes[:, 0, None, None], sizes[:, 1, None, None]
    area = (low + tries[:, :, 0] * (high - low)) * height * width
    ratio = np.exp(math.log(_ASPECT[0]) + tries[:, :, 1] * math.log(_ASPECT[1] / _ASPECT[0]))
    tall, wide = np.sqrt(area / ratio), np.sqrt(area * ratio)
    fits = (tall <= height) & (wide <= width)
    first = fits.argmax(axis=-1)[..., None]
    height, width = height[..., 0], width[..., 0]
    middle_wide = np.clip(width, _ASPECT[0] * height, _ASPECT[1] * height)
    middle_wide = np.minimum(middle_wide, width)
    middle_tall = np.minimum(height, width / _ASPECT[0])
    found = fits.any(axis=-1)
    tall = np.where(found, np.take_along_axis(tall, first, -1)[..., 0], middle_tall)
    wide = np.where(found, np.take_along_axis(wide, first, -1)[..., 0], middle_wide)
    top = np.where(found, y, 0.5) * (height - tall)
    left = np.where(found, x, 0.5) * (width - wide)
    return np.stack([top, left, tall, wide], axis=-1)
