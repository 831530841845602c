"""Copy detection: copies are near, unrelated pictures are not, and rules fitted to both separate them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dinov2_core.curation import planting, vectors
from dinov2_core.curation.alignment import Thumbnail, correlation
from dinov2_core.curation.copy_detection import CopyEmbedder, square_side
from dinov2_core.curation.copy_rule import CopyRule, Scores, expected_precision, fit
from dinov2_core.curation.keep_rule import keep_order
from tests.pictures import field, part


@pytest.fixture(scope="module")
def embedder() -> CopyEmbedder:
    return CopyEmbedder(str(part("sscd_distilled")), side=128)


def test_every_kind_of_copy_is_nearer_than_any_other_picture(embedder: CopyEmbedder) -> None:
    originals = [field(i, 64, 64) for i in range(24)]
    pool = embedder(originals)
    for kind in planting.EDITS:
        copies = embedder([planting.plant(x, kind, i) for i, x in enumerate(originals)])
        assert (np.argmax(copies @ pool.T, axis=1) == np.arange(24)).mean() > 0.9, kind


def test_embeddings_are_unit_vectors_in_the_order_given(embedder: CopyEmbedder) -> None:
    images = [field(0), field(1, 300, 200), field(2, 17, 90), field(3)]
    together = embedder(images)
    assert together.shape == (4, 512)
    assert together.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
    alone = np.concatenate([embedder([image]) for image in images])
    assert np.array_equal(together, alone), "a picture's company changes nothing"
    assert embedder([]).shape == (0, 512)


def test_the_authors_torchscript_files_are_taken_too(tmp_path: Path) -> None:
    class Mean(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean(dim=(2, 3)).repeat(1, 171)[:, :512]

    path = tmp_path / "sscd.torchscript.pt"
    torch.jit.script(Mean()).save(str(path))
    made = CopyEmbedder(str(path), side=64)([np.full((10, 10, 3), (255, 0, 127), np.uint8)])
    expected = (np.array([1, 0, 127 / 255]) - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(made[0, :3] / made[0, 0], expected / expected[0], rtol=1e-4)


@pytest.mark.parametrize(
    ("size", "side", "used"), [((32, 32), 288, 128), ((50, 20), 288, 224), ((500, 20), 288, 288), ((32, 32), 96, 96)]
)
def test_tiny_pictures_are_not_enlarged_to_the_full_side(size: tuple[int, int], side: int, used: int) -> None:
    assert square_side(*size, side) == used


@pytest.mark.parametrize("kind", [k for k in planting.EDITS if k not in ("overlay", "rotation")])
def test_copies_align_and_other_pictures_do_not(kind: str) -> None:
    thumbnails = [Thumbnail(field(i, 48, 48)) for i in range(12)]
    for i, own in enumerate(thumbnails):
        copy = Thumbnail(planting.plant(field(i, 48, 48), kind, i))
        assert correlation(own, copy) == correlation(copy, own)
        assert correlation(own, copy) > 0.88
        assert correlation(own, thumbnails[i - 1]) < 0.8


def test_correlation_is_the_plain_one_at_its_best_place() -> None:
    """Against the definition, evaluated at every place, scale and mirroring without any transform."""
    from PIL import Image

    from dinov2_core.curation import alignment
    from dinov2_core.curation.quality import grey

    a, b = field(1, 48, 48), field(2, 60, 40)

    def resized(pixels: np.ndarray, side: int) -> np.ndarray:
        picture = Image.fromarray(grey(pixels)).resize((side, side), Image.Resampling.LANCZOS)
        return np.asarray(picture, dtype=np.float64)

    best = -1.0
    for small, large in ((a, b), (b, a)):
        whole = resized(large, alignment.SIDE)
        for size in alignment._SIZES:
            for template in (resized(small, size), resized(small, size)[:, ::-1]):
                for y in range(alignment.SIDE - size + 1):
                    for x in range(alignment.SIDE - size + 1):
                        window = whole[y : y + size, x : x + size]
                        best = max(best, np.corrcoef(template.reshape(-1), window.reshape(-1))[0, 1])
    assert correlation(Thumbnail(a), Thumbnail(b)) == pytest.approx(best, abs=1e-9)


def test_flat_pictures_align_with_nothing() -> None:
    flat = Thumbnail(np.full((20, 20, 3), 90, np.uint8))
    assert correlation(flat, flat) == 0.0
    assert correlation(flat, Thumbnail(field(0))) == 0.0


def test_planted_copies_repeat() -> None:
    for kind in planting.EDITS:
        assert np.array_equal(planting.plant(field(0), kind, 5), planting.plant(field(0), kind, 5))
    assert not np.array_equal(planting.plant(field(0), "crop", 5), planting.plant(field(0), "crop", 6))
    assert planting.plant(np.zeros((1, 1, 3), np.uint8), "crop", 0).shape == (1, 1, 3)


@pytest.mark.parametrize("kind", planting.EDITS)
def test_stronger_edits_are_less_like_the_original(kind: str, embedder: CopyEmbedder) -> None:
    originals = [field(i, 96, 96) for i in range(12)]
    pool = embedder(originals)
    alike = []
    for strength in planting.STRENGTHS:
        copies = embedder([planting.plant(x, kind, i, strength) for i, x in enumerate(originals)])
        alike.append(float((copies * pool).sum(axis=1).mean()))
    assert alike[0] > alike[1] > alike[2], alike


def test_an_image_is_never_copied_twice_in_one_way() -> None:
    pairs = [(planting.kind_of(i, 0), planting.kind_of(i, 1)) for i in range(72)]
    assert all(a != b for a, b in pairs)
    assert len(set(pairs)) == 72


def test_a_rule_takes_sure_pairs_and_aligned_ones() -> None:
    rule = CopyRule(0.8, 0.5, 0.9)
    similarity = np.array([0.85, 0.7, 0.7, 0.4, 0.7])
    alignment = np.array([0.0, 0.95, 0.85, 0.99, np.nan])
    assert rule.accepts(similarity, alignment).tolist() == [True, True, False, False, False]
    assert CopyRule(0.6).accepts(similarity, alignment).tolist() == [True, True, True, False, True]


def test_the_more_alike_the_less_the_pixels_must_prove() -> None:
    rule = CopyRule(1.0, 0.5, 0.98, trade=0.2)
    similarity, alignment = np.array([0.55, 0.55, 0.8, 0.8]), np.array([0.975, 0.965, 0.925, 0.91])
    assert rule.accepts(similarity, alignment).tolist() == [True, False, True, False]


def test_the_fit_finds_most_copies_at_the_wanted_precision() -> None:
    rng = np.random.default_rng(0)
    copies = Scores(rng.uniform(0.5, 0.9, 500), rng.uniform(0.9, 1.0, 500))
    others = Scores(rng.uniform(0.45, 0.7, 400), rng.uniform(0.3, 0.89, 400))
    wanted = {"compared": 1_000_000, "unrelated_per_copy": 50_000, "precision": 0.9, "floor": 0.45}
    found = fit(copies, others, **wanted)
    assert found.precision >= 0.9
    assert found.recall > 0.95
    # Similarity alone cannot: the copies under 0.7 lie among the others.
    assert (copies.similarity > 0.7).mean() < 0.6


def test_a_larger_pool_asks_for_a_stricter_rule() -> None:
    rng = np.random.default_rng(1)
    copies = Scores(rng.uniform(0.5, 1, 400), np.full(400, np.nan))
    others = Scores(rng.uniform(0.45, 0.8, 300) ** 1.5, np.full(300, np.nan))
    rules = [
        fit(copies, others, compared=10**6, unrelated_per_copy=u, precision=0.9, floor=0.45).rule.similarity
        for u in (1e2, 1e4, 1e6)
    ]
    assert rules == sorted(rules)
    assert rules[0] < rules[-1]


def test_precision_follows_from_rates() -> None:
    assert expected_precision(0.9, 1e-6, 100_000) == pytest.approx(0.9)
    assert expected_precision(0.0, 0.0, 10) == 0.0


def test_the_largest_then_least_compressed_then_first_stays() -> None:
    pixels = np.array([100, 400, 400, 400, 100])
    lengths = np.array([90, 50, 80, 80, 10])
    ids = np.array(["a", "b", "d", "c", "e"], dtype=object)
    assert keep_order(pixels, lengths, ids).tolist() == [3, 2, 1, 0, 4]


def test_vectors_survive_their_table() -> None:
    matrix = vectors.unit(np.random.default_rng(0).normal(size=(5, 16)).astype(np.float32))
    table = vectors.to_table(list("edcba"), matrix)
    ids, back = vectors.from_table(table)
    np.testing.assert_allclose(back, matrix, atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(back, axis=1), 1, atol=1e-6)
    assert vectors.sorted_unique(ids, back)[0].tolist() == list("abcde")
    ids, back = vectors.from_table(table.slice(0, 0))
    assert back.shape == (0, 16)
    # A slice starts inside its buffer.
    assert np.array_equal(vectors.from_table(table.slice(2, 2))[1], vectors.from_table(table)[1][2:4])
