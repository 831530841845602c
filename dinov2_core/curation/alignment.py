"""Do two pictures show the same pixels? Correlation at the best shift, scale and mirroring.

A second opinion on pairs that copy-detection embeddings find alike: a different picture of a similar thing is close
in embedding and does not align. It sees brightness, contrast, compression, crops, borders and mirroring through; not
rotation or large overlays. Which pairs to ask about does not belong here.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

from dinov2_core.curation.quality import grey

SIDE = 48
SCALES = (1.0, 0.96, 0.92, 0.88, 0.84, 0.8, 0.75, 0.7)
"""Sides of a crop as shares of the whole."""
_SIZES = tuple(round(SIDE * scale) for scale in SCALES)
_FLAT = 1.0
"""Variance in squared grey levels under which a window has nothing to correlate with."""


class Thumbnail:
    """What :func:`correlation` needs of one picture, computed once.

    ``spectrum`` complex [48, 25] of the picture; ``templates`` complex [16, 48, 25], the conjugate spectra of it at
    each scale, as it is and mirrored, with unit norm; ``spread`` float [8, 48, 48], for each size of window the norm
    of the window at each place, infinite where it would leave the picture or is flat.
    """

    def __init__(self, pixels: np.ndarray) -> None:
        picture = Image.fromarray(grey(pixels))
        whole = np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS), dtype=np.float64)
        self.spectrum = np.fft.rfft2(whole)
        templates = []
        for size in _SIZES:
            small = np.asarray(picture.resize((size, size), Image.Resampling.LANCZOS), dtype=np.float64)
            centred = small - small.mean()
            norm = np.linalg.norm(centred)
            scaled = centred / norm if norm > 0 else centred
            templates += [scaled, scaled[:, ::-1]]
        self.templates = np.stack([np.conj(np.fft.rfft2(t, (SIDE, SIDE))) for t in templates])
        self.spread = np.stack([_spread(whole, size) for size in _SIZES])


def correlation(a: Thumbnail, b: Thumbnail) -> float:
    """The highest normalised correlation, at most 1, of either picture at any scale and mirroring inside the other."""
    return max(_inside(a, b), _inside(b, a))


def _inside(small: Thumbnail, large: Thumbnail) -> float:
    products = np.fft.irfft2(small.templates * large.spectrum, (SIDE, SIDE))
    shaped = products.reshape(len(_SIZES), 2, SIDE, SIDE) / large.spread[:, None]
    return float(shaped.max())


def _spread(whole: np.ndarray, size: int) -> np.ndarray:
    places = SIDE - size + 1
    sums = [np.pad(values.cumsum(0).cumsum(1), ((1, 0), (1, 0))) for values in (whole, whole * whole)]
    first, second = (s[size:, size:] - s[:-size, size:] - s[size:, :-size] + s[:-size, :-size] for s in sums)
    squares = second - first * first / size**2
    spread = np.full((SIDE, SIDE), np.inf)
    spread[:places, :places] = np.where(squares > _FLAT * size**2, np.sqrt(np.maximum(squares, 0)), np.inf)
    return spread


DETAIL = 0.6
"""Correlation of fine detail from which two pictures show the same pixels. On CIFAR-10 the highest of 1,500 random
pairs was 0.50 and the lowest of 480 planted copies 0.67."""


def detail(pixels: np.ndarray) -> Thumbnail:
    """The thumbnail of a picture's fine detail alone: what is smooth, as skies are, says nothing about copies."""
    whole = grey(pixels) if pixels.ndim == 3 else pixels
    small = Image.fromarray(whole).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    values = np.asarray(small, dtype=np.float64)
    smooth = np.asarray(small.filter(ImageFilter.GaussianBlur(2.5)), dtype=np.float64)
    raised = (values - smooth).clip(-127, 127) + 128
    return Thumbnail(np.repeat(raised.round().astype(np.uint8)[:, :, None], 3, axis=2))
