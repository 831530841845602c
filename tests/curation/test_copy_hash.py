"""Copies by low frequencies: what is found, what is not, and that the parts are what they say."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from dinov2_core.curation import copy_hash, planting
from dinov2_core.curation.scratch import Scratch
from tests.pictures import field


def thumbnails(*pictures: np.ndarray) -> np.ndarray:
    return np.stack([copy_hash.thumbnail(p) for p in pictures])


@pytest.mark.parametrize("kind", ["crop", "resize", "jpeg", "mirror", "colour", "blur", "border"])
def test_copies_of_every_kind_pair_with_their_originals_and_with_nothing_else(kind: str) -> None:
    originals = [field(i, 96, 96) for i in range(12)]
    copies = [planting.plant(pixels, kind, i) for i, pixels in enumerate(originals)]
    a, b, score = copy_hash.copy_pairs(thumbnails(*originals, *copies), 0.85)
    assert list(zip(a.tolist(), b.tolist(), strict=True)) == [(i, 12 + i) for i in range(12)]
    assert score.dtype == np.float32
    assert ((score > 0.85) & (score < 1.001)).all()


def test_pairs_equal_those_of_comparing_every_part_with_every_picture() -> None:
    pictures = [field(i, 64, 64) for i in range(4)]
    some = thumbnails(*pictures, *(planting.plant(p, "crop", i) for i, p in enumerate(pictures)))
    wanted: dict[tuple[int, int], float] = {}
    for i, query in enumerate(some):
        for j, pool in enumerate(some):
            for flip in (query, query[:, ::-1]):
                for part in copy_hash.parts():
                    one, two = copy_hash.describe(flip[None])[0], copy_hash.describe(pool[None], part)[0]
                    if i != j and (cosine := float(one @ two)) > 0.3:
                        key = (min(i, j), max(i, j))
                        wanted[key] = max(wanted.get(key, -1.0), cosine)
    a, b, score = copy_hash.copy_pairs(some, 0.3, margin=2.0)
    found = dict(zip(zip(a.tolist(), b.tolist(), strict=True), score.tolist(), strict=True))
    assert found.keys() == wanted.keys()
    assert max(abs(found[key] - wanted[key]) for key in wanted) < 1e-5


def test_looking_closer_only_at_what_is_alike_by_few_parts_finds_the_same_copies() -> None:
    pictures = [field(i, 64, 64) for i in range(40)]
    copies = [planting.plant(p, kind, i) for kind in ("crop", "border", "mirror") for i, p in enumerate(pictures)]
    some = thumbnails(*pictures, *copies)
    every = np.stack(np.triu_indices(len(some), 1))
    score = copy_hash.scores(some, *every)
    wanted = {tuple(pair) for pair in every.T[score > 0.8].tolist()}
    with Scratch(0) as scratch:
        a, b, found = copy_hash.copy_pairs(some, 0.8, k=200, scratch=scratch)
    pairs = set(zip(a.tolist(), b.tolist(), strict=True))
    assert pairs <= wanted
    assert len(pairs) >= 0.99 * len(wanted)
    by_pair = dict(zip(map(tuple, every.T.tolist()), score.tolist(), strict=True))
    assert [by_pair[pair] for pair in zip(a.tolist(), b.tolist(), strict=True)] == pytest.approx(
        found.tolist(), abs=1e-6
    )


def test_mirroring_the_description_describes_the_mirrored_picture() -> None:
    some = thumbnails(*(field(i, 64, 64) for i in range(4)))
    direct = copy_hash.describe(some[:, :, ::-1])
    np.testing.assert_allclose(copy_hash.mirrored(copy_hash.describe(some)), direct, atol=1e-5)


def test_a_part_is_described_as_its_crop_is() -> None:
    whole = field(3, 512, 512)
    left, top, side = copy_hash.parts()[5]
    box = [round(512 * v) for v in (left, top, left + side, top + side)]
    crop = np.asarray(Image.fromarray(whole).crop((box[0], box[1], box[2], box[3])))
    one = copy_hash.describe(thumbnails(whole), (left, top, side))[0]
    assert one @ copy_hash.describe(thumbnails(crop))[0] > 0.97
    assert one @ copy_hash.describe(thumbnails(whole))[0] < 0.95


def test_brightness_and_contrast_change_nothing() -> None:
    some = thumbnails(field(1, 64, 64)).astype(np.float32)
    np.testing.assert_allclose(copy_hash.describe(0.5 * some + 40), copy_hash.describe(some), atol=1e-4)


def test_flat_pictures_are_like_nothing() -> None:
    flat = np.full((40, 40, 3), 90, np.uint8)
    assert len(copy_hash.copy_pairs(thumbnails(flat, flat, field(0, 64, 64)), 0.1)[0]) == 0


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_pictures_have_no_pairs(count: int) -> None:
    a, b, score = copy_hash.copy_pairs(np.zeros((count, 32, 32), np.uint8))
    assert len(a) == len(b) == len(score) == 0
