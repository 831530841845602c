"""Copies without a network: low frequencies of a small grey picture, compared with every part of another that a crop or
a border could have left. A hundredth of the cost of ``copy_detection``; blind to rotation and large overlays.

The axes are those of ``pca_hash``, kept as numbers and not as signs, each divided by its standard deviation in natural
pictures, so that a cosine weighs all of them alike. Mirrored pictures need no second look: mirroring turns the sign of
every axis that is odd along a row. What is done with the pairs does not belong here.
"""

from __future__ import annotations

import functools

import numpy as np
from PIL import Image

from dinov2_core.curation import pca_hash
from dinov2_core.curation.neighbours import NeighbourSearch
from dinov2_core.curation.scratch import Scratch
from dinov2_core.curation.vectors import StoredRows, unit
from dinov2_core.progress import track

SIDE, DIM = 32, 144
ENOUGH = 64 * 64
"""Pixels that a thumbnail is made of: a larger JPEG is decoded at a fraction of its sides (``decode(enough=…)``)."""
THRESHOLD = 0.9
"""Cosine from which two pictures are copies: 99 of 100 pairs over it were, among photographs that hold look-alikes."""
SCALES = ((1.0, 1), (0.96, 2), (0.92, 3), (0.88, 3), (0.84, 3), (0.8, 1))
"""Sides of the parts as shares of the whole, and how many places along a side each is tried at (one: the middle)."""
COARSE = ((0.0, 0.0, 1.0), (0.04, 0.04, 0.92), (0.08, 0.08, 0.84))
COARSE_DIM, MARGIN = 64, 0.1
"""With these parts, axes and margin 99 of 100 pairs that all parts and axes find are found, at a seventh of the cost
(2,000 pictures of 32 pixels, threshold 0.7)."""
_BLOCK, _IMAGES, _UNBOUNDED = 4096, 256, 1 << 62
_FLAT = 1e-3
"""A part whose axes have a smaller norm than this, of grey levels from 0 to 1, shows nothing and is like nothing."""


def thumbnail(pixels: np.ndarray) -> np.ndarray:
    """uint8 H×W×3 → uint8 [32, 32] luma, squeezed to a square."""
    small = Image.fromarray(pixels).convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return np.asarray(small)


@functools.cache
def parts() -> tuple[tuple[float, float, float], ...]:
    """``(left, top, side)`` of every part as shares of the picture; the whole comes first."""
    found = []
    for side, places in SCALES:
        offsets = [(1 - side) / 2] if places == 1 else np.linspace(0, 1 - side, places).tolist()
        found += [(left, top, side) for left in offsets for top in offsets]
    return tuple(found)


@functools.cache
def _axes(left: float, top: float, side: float) -> np.ndarray:
    """float32 [1024, 144]: the axes of the part, as a map of the whole thumbnail."""
    rows, columns, variance = pca_hash.frequencies(DIM)
    cosines = pca_hash.cosines(SIDE)
    y, x = cosines[rows] @ _resampling(top, side), cosines[columns] @ _resampling(left, side)
    product = np.einsum("my,mx->myx", y, x).reshape(DIM, -1)
    return np.ascontiguousarray((product / np.sqrt(variance)[:, None]).T.astype(np.float32))


def _resampling(start: float, side: float) -> np.ndarray:
    """[32, 32]: 32 points of the part, each from the two pixels beside it."""
    places = start * SIDE + (np.arange(SIDE) + 0.5) * side - 0.5
    weights = np.clip(1 - np.abs(places[:, None] - np.arange(SIDE)), 0, None)
    shares: np.ndarray = weights / weights.sum(axis=1, keepdims=True)
    return shares


def describe(thumbnails: np.ndarray, part: tuple[float, float, float] = (0.0, 0.0, 1.0)) -> np.ndarray:
    """uint8 or float [N, 32, 32] (or [N, 1024]) → float32 [N, 144] of unit length, zero where flat."""
    values = thumbnails.reshape(len(thumbnails), SIDE * SIDE).astype(np.float32) / 255
    found = values @ _axes(*part)
    found[np.linalg.norm(found, axis=1) < _FLAT] = 0
    return unit(found)


def _divided(thumbnails: np.ndarray) -> np.ndarray:
    """What :func:`describe` gives of every part, by one product: float32 [N, parts, 144]."""
    values = thumbnails.reshape(len(thumbnails), SIDE * SIDE).astype(np.float32) / 255
    found = (values @ _all_axes()).reshape(len(values), -1, DIM)
    norms = np.sqrt(np.einsum("npd,npd->np", found, found))[..., None]
    found /= np.where(norms < _FLAT, np.inf, norms)
    return found


@functools.cache
def _all_axes() -> np.ndarray:
    return np.concatenate([_axes(*part) for part in parts()], axis=1)


def mirrored(described: np.ndarray) -> np.ndarray:
    """What :func:`describe` gives of the whole pictures mirrored left to right."""
    _, columns, _ = pca_hash.frequencies(DIM)
    return described * np.where(columns % 2, -1, 1).astype(np.float32)


def copy_pairs(
    thumbnails: np.ndarray,
    threshold: float = THRESHOLD,
    k: int = 64,
    *,
    margin: float = MARGIN,
    scratch: Scratch | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs ``a < b`` int64 [P] of pictures one of which, mirrored or not, is like a part of the other: cosine float32
    over ``threshold``, the highest of all parts.

    All pictures are compared by the lowest frequencies of three parts, at most ``k`` others each; only pairs that come
    within ``margin`` of the threshold there are compared by all parts. Work grows with the square of the number of
    pictures, memory with the number: ``scratch`` is where it lies.
    """
    a, b = _candidates(thumbnails, threshold - margin, k, scratch or Scratch(_UNBOUNDED))
    score = scores(thumbnails, a, b)
    over = score > threshold
    return a[over], b[over], score[over]


def scores(thumbnails: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The highest cosine of the pictures ``a[i]`` and ``b[i]``, int [P], over all parts of either and mirroring:
    float32 [P]."""
    best = np.full(len(a), -1, np.float32)
    for wholes, divided in ((a, b), (b, a)):
        order = np.argsort(divided, kind="stable")
        images, first = np.unique(divided[order], return_index=True)
        ends = np.append(first[1:], len(order))
        for start in track(range(0, len(images), _IMAGES), "comparing all parts"):
            some = slice(start, start + _IMAGES)
            own = _divided(thumbnails[images[some]])
            pairs = order[first[start] : ends[some][-1]]
            names, place = np.unique(wholes[pairs], return_inverse=True)
            whole = describe(thumbnails[names])
            both = np.stack([whole, mirrored(whole)])
            for image, low, high in zip(own, first[some] - first[start], ends[some] - first[start], strict=True):
                cosine = (both[:, place[low:high]] @ image.T).max(axis=(0, 2))
                best[pairs[low:high]] = np.maximum(best[pairs[low:high]], cosine)
    return best


def _candidates(thumbnails: np.ndarray, floor: float, k: int, scratch: Scratch) -> tuple[np.ndarray, np.ndarray]:
    """Pairs ``a < b`` that a part in ``COARSE`` brings over ``floor``: int64 [P] each."""
    count = len(thumbnails)
    # The whole, the whole mirrored, and one part after another.
    rows = [StoredRows(scratch.empty((count, COARSE_DIM), np.float16)) for _ in range(3)]
    keys = [np.zeros(0, np.int64)]
    for number, part in enumerate(COARSE, 1):
        for start in range(0, count, _BLOCK):
            some = slice(start, start + _BLOCK)
            own = describe(thumbnails[some], part)
            rows[2].values[some] = own[:, :COARSE_DIM]
            if part == COARSE[0]:
                rows[0].values[some], rows[1].values[some] = own[:, :COARSE_DIM], mirrored(own)[:, :COARSE_DIM]
        search = NeighbourSearch(rows[2])
        for queries, how in zip(rows[:2], ("", ", mirrored"), strict=True):
            label = f"comparing thumbnails, part {number} of {len(COARSE)}{how}"
            # One more neighbour than asked: every picture is its own nearest.
            for found in search.stream(queries, k + 1, floor, label=label):
                apart = found.query != found.pool
                one, two = found.query[apart], found.pool[apart]
                keys.append(np.minimum(one, two) * count + np.maximum(one, two))
    a, b = np.divmod(np.unique(np.concatenate(keys)), max(count, 1))
    return a, b
