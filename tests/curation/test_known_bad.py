"""Hash lists, whitening and fine detail: the listed is found, the shared goes, the smooth proves nothing."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinov2_core.curation import planting, whitening
from dinov2_core.curation.alignment import DETAIL, correlation, detail
from dinov2_core.curation.known_bad import HashLists, pdq_hashes
from dinov2_core.errors import UserError
from tests.pictures import encoded, field


def test_exact_and_perceptual_hashes_are_found(tmp_path: Path) -> None:
    pixels = field(1, 128, 128)
    data = encoded(pixels)
    (tmp_path / "a.txt").write_text(f"# exact\n{hashlib.md5(data).hexdigest()}\n")
    (tmp_path / "pdq.txt").write_text(pdq_hashes(pixels)[0][0].tobytes().hex() + "\n")
    assert HashLists.read([str(tmp_path / "a.txt")]).match(data, pixels) == "md5"
    lists = HashLists.read([str(tmp_path / "pdq.txt")])
    assert lists.match(b"", planting.plant(pixels, "jpeg", 0)) == "pdq"
    assert lists.match(b"", pixels[:, ::-1]) == "pdq"
    assert lists.match(b"", field(2, 128, 128)) == ""
    assert lists.match(b"", np.full((64, 64, 3), 9, np.uint8)) == ""


def test_a_line_that_is_no_hash_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\nsha256:12\n")
    with pytest.raises(UserError, match=r"a\.txt: line 2 is no hash"):
        HashLists.read([str(tmp_path / "a.txt")])


def test_centring_and_whitening_take_out_what_all_share() -> None:
    rng = np.random.default_rng(0)
    matrix = (rng.normal(size=(400, 16)) * np.linspace(1, 4, 16) + 5).astype(np.float32)
    for centre, whiten in ((True, False), (True, True)):
        made = whitening.fit(matrix, centre=centre, whiten=whiten)(matrix)
        np.testing.assert_allclose(np.linalg.norm(made, axis=1), 1, atol=1e-5)
        assert np.abs(made.mean(axis=0)).max() < 0.05
    assert made.std(axis=0).max() < 1.5 * made.std(axis=0).min()
    assert whitening.fit(matrix, centre=False, whiten=False)(matrix) is matrix


def test_fine_detail_tells_copies_from_pictures_that_share_a_sky() -> None:
    ramp = np.repeat(np.linspace(0, 255, 64)[:, None, None], 64, axis=1).repeat(3, axis=2)
    skies = []
    for seed in (1, 2):
        noise = np.asarray(Image.fromarray(field(seed, 64, 64)), float) - 128
        skies.append((ramp * 0.8 + noise * 0.2).clip(0, 255).astype(np.uint8))
    copy = planting.plant(skies[0], "jpeg", 0)
    assert correlation(detail(skies[0]), detail(copy)) > DETAIL
    assert correlation(detail(skies[0]), detail(skies[1])) < DETAIL
