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
from dinov2_core.curation.vectors import unit

SIDE, DIM = 32, 144
ENOUGH = 64 * 64
"""Pixels that a thumbnail is made of: a larger JPEG is decoded at a fraction of its sides (``decode(enough=…)``)."""
THRESHOLD = 0.9
"""Cosine from which two pictures are copies: 99 of 100 pairs over it were, among photographs that hold look-alikes."""
SCALES = ((1.0, 1), (0.96, 2), (0.92, 3), (0.88, 3), (0.84, 3), (0.8, 1))
"""Sides of the parts as shares of the whole, and how many places along a side each is tried at (one: the middle)."""
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


def mirrored(described: np.ndarray) -> np.ndarray:
    """What :func:`describe` gives of the whole pictures mirrored left to right."""
    _, columns, _ = pca_hash.frequencies(DIM)
    return described * np.where(columns % 2, -1, 1).astype(np.float32)


def copy_pairs(
    thumbnails: np.ndarray, threshold: float = THRESHOLD, k: int = 64
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs ``a < b`` int64 [P] of pictures one of which, mirrored or not, is like a part of the other: cosine float32
    over ``threshold``, the highest of all parts. Every picture is compared with at most ``k`` others a part.

    Work grows with the square of the number of pictures, memory with the number.
    """
    count = len(thumbnails)
    whole = describe(thumbnails)
    queries = np.concatenate([whole, mirrored(whole)])
    keys, scores = [np.zeros(0, np.int64)], [np.zeros(0, np.float32)]
    for part in parts():
        # One more neighbour than asked: every picture is its own nearest.
        found = NeighbourSearch(describe(thumbnails, part)).above(queries, threshold, k + 1)
        one, two = found.query % count, found.pool
        keys.append(np.minimum(one, two) * count + np.maximum(one, two))
        scores.append(found.similarity)
    key, score = np.concatenate(keys), np.concatenate(scores)
    order = np.lexsort((-score, key))
    key, score = key[order], score[order]
    best = np.diff(key, prepend=-1) != 0
    a, b = np.divmod(key[best], max(count, 1))
    other = a != b
    return a[other], b[other], score[best][other]
