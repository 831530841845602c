"""PCA hashes: 64 bits an image that survive re-encoding and resizing, for near-exact duplicates.

The hash is the sign of an image's projections on fixed principal axes of small natural images (DINOv2 paper,
section 3, names a "PCA hash" and no more). The axes are those of a stationary first-order Markov field, which in the
limit of full correlation are the two-dimensional cosines (Ahmed, Natarajan and Rao, 1974), largest variance first:
nothing is fitted, so hashes of different batches, machines and years can be compared. Copies that are cropped,
mirrored or edited are found by ``copy_detection``.
"""

from __future__ import annotations

import functools

import numpy as np
from PIL import Image

SIDE, BITS = 16, 64
_CORRELATION = 0.95


def cosines(side: int) -> np.ndarray:
    """float64 [side, side]: the unit cosines of one line, lowest frequency first."""
    k, n = np.arange(side)[:, None], np.arange(side)[None, :]
    found: np.ndarray = np.cos(np.pi * (2 * n + 1) * k / (2 * side)) * np.sqrt(2.0 / side)
    found[0] /= np.sqrt(2.0)
    return found


def frequencies(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row and column frequency, int64 [count], of the axes of largest variance, float64 [count], without the mean."""
    # Spectrum of the field along one side; the axes of a square are products, and so are their variances.
    line = (1 - _CORRELATION**2) / (1 - 2 * _CORRELATION * np.cos(np.pi * np.arange(SIDE) / SIDE) + _CORRELATION**2)
    variance = np.outer(line, line).reshape(-1)
    variance[0] = -1.0
    order = np.argsort(-variance, kind="stable")[:count]
    return order // SIDE, order % SIDE, variance[order]


@functools.cache
def axes() -> np.ndarray:
    """float64 [64, 256]: the unit axes of 16×16 pictures with the largest variance, without the mean."""
    lines = cosines(SIDE)
    rows, columns, _ = frequencies(BITS)
    return np.stack([np.outer(lines[i], lines[j]).reshape(-1) for i, j in zip(rows, columns, strict=True)])


def pca_hash(luma: np.ndarray) -> bytes:
    """uint8 H×W → 8 bytes."""
    small = Image.fromarray(luma).resize((SIDE, SIDE), Image.Resampling.BOX, reducing_gap=None)
    projections = axes() @ np.asarray(small, dtype=np.float64).reshape(-1)
    return np.packbits(projections > 0).tobytes()


def hamming_pairs(hashes: np.ndarray, distance: int) -> np.ndarray:
    """Every pair within ``distance`` bits: int64 [P, 2] rows (i, j) with i < j, sorted.

    ``hashes`` is uint8 [N, 8]. Exact: 64 bits cut into ``distance + 1`` bands leave at least one band equal in any
    such pair, so only hashes that share a band are compared.
    """
    bits = np.unpackbits(hashes, axis=1) if len(hashes) else np.zeros((0, BITS), np.uint8)
    whole = hashes.copy().view(np.uint64).reshape(-1) if len(hashes) else np.zeros(0, np.uint64)
    found = [np.zeros((0, 2), np.int64)]
    for columns in np.array_split(np.arange(BITS), distance + 1):
        band = np.packbits(bits[:, columns], axis=1)
        _, group = np.unique(band, axis=0, return_inverse=True)
        order = np.argsort(group.reshape(-1), kind="stable")
        ends = np.flatnonzero(np.diff(group.reshape(-1)[order])) + 1
        for members in np.split(order, ends):
            found.extend(_close(members, whole, distance))
    return np.unique(np.concatenate(found), axis=0)


def _close(members: np.ndarray, whole: np.ndarray, distance: int) -> list[np.ndarray]:
    close = []
    for position in range(len(members) - 1):
        rest = members[position + 1 :]
        near = rest[np.bitwise_count(whole[rest] ^ whole[members[position]]) <= distance]
        if len(near):
            # Members are in increasing order, since the sort was stable.
            close.append(np.stack([np.full(len(near), members[position]), near], axis=1))
    return close
