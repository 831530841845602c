"""PCA hashes: equal for re-encoded and resized images, far apart for others, and every close pair is found."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dinov2_core.curation.pca_hash import axes, hamming_pairs, pca_hash
from dinov2_core.curation.quality import grey
from tests.pictures import encoded, field


def distance(a: bytes, b: bytes) -> int:
    return (int.from_bytes(a, "big") ^ int.from_bytes(b, "big")).bit_count()


def test_the_axes_are_orthonormal_and_blind_to_brightness() -> None:
    np.testing.assert_allclose(axes() @ axes().T, np.eye(64), atol=1e-12)
    np.testing.assert_allclose(axes().sum(axis=1), 0, atol=1e-12)


def test_near_exact_copies_are_close_and_others_are_not() -> None:
    fields = [field(i, 96, 96) for i in range(40)]
    hashes = [pca_hash(grey(x)) for x in fields]
    for pixels, own in zip(fields, hashes, strict=True):
        jpeg = np.asarray(Image.open(io.BytesIO(encoded(pixels, "JPEG", quality=80))))
        half = np.asarray(Image.fromarray(pixels).resize((48, 48), Image.Resampling.BOX))
        assert distance(own, pca_hash(grey(jpeg))) <= 3
        assert distance(own, pca_hash(grey(half))) <= 3
    others = [distance(a, b) for i, a in enumerate(hashes) for b in hashes[:i]]
    assert min(others) > 8


def test_a_hash_is_the_same_today_as_ever() -> None:
    """Tables hold hashes: another value for the same pixels would break them silently."""
    ramp = np.add.outer(np.arange(40) * 3, np.arange(40) ** 2 // 16).astype(np.uint8)
    assert pca_hash(ramp).hex() == "22111c061ff1cc58"


def plain(hashes: np.ndarray, limit: int) -> list[list[int]]:
    bits = np.unpackbits(hashes, axis=1).astype(int)
    return [
        [i, j]
        for i in range(len(hashes))
        for j in range(i + 1, len(hashes))
        if np.abs(bits[i] - bits[j]).sum() <= limit
    ]


@given(st.integers(0, 60), st.integers(0, 8), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_every_close_pair_is_found(count: int, limit: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    centres = rng.integers(0, 256, (4, 8), dtype=np.uint8)
    flips = np.packbits(rng.random((count, 64)) < 0.06, axis=1)
    hashes = centres[rng.integers(0, 4, count)] ^ flips
    assert hamming_pairs(hashes, limit).tolist() == plain(hashes, limit)


@pytest.mark.parametrize("limit", [0, 3])
def test_no_hashes_have_no_pairs(limit: int) -> None:
    assert hamming_pairs(np.zeros((0, 8), np.uint8), limit).shape == (0, 2)
