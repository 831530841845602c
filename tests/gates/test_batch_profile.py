"""A batch beside the ones before it: a real difference shows, chance does not."""

from __future__ import annotations

import numpy as np
import pytest

from dinov2_core import tables
from dinov2_core.gates import batch_profile
from dinov2_core.gates.batch_profile import BatchProfile, Rate, comparable, mean_shift, rate_shift, volume_ratio
from dinov2_core.manifest import Manifest
from dinov2_core.storage import Store
from tests.gates import toy


def batch(hits: int, known: int, mean: tuple[float, ...] = ()) -> BatchProfile:
    return BatchProfile(known, {"r": (hits, known)}, mean)


def cloud(rng: np.random.Generator, count: int, centre: np.ndarray) -> BatchProfile:
    """The profile of unit vectors around a centre."""
    vectors = rng.normal(size=(count, len(centre))) + centre
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return BatchProfile(count, {}, tuple(vectors.mean(axis=0)))


def test_a_profile_counts_every_row_of_every_part(store: Store) -> None:
    faces = [{"x": 0, "y": 0, "w": 3, "h": 3, "score": 0.5}]
    rows = [{"keep": True, "nsfw": 0.7, "faces": faces}, {"keep": False, "nsfw": None, "faces": []}, {"keep": None}]
    part = tables.from_rows(rows, tables.VERDICTS)
    made = toy.write(store, "filtered_set", {"verdicts": [part, part]}, "b")
    rates = [
        Rate("dropped", "keep", {"keep": False}),
        Rate("unsafe", "nsfw", {"nsfw": (">", 0.5)}),
        Rate("faces", "faces", {"faces": (">", 0)}),
    ]
    found = batch_profile.measure(store, made, "verdicts", rates, vectors=False)
    assert found == BatchProfile(6, {"dropped": (2, 4), "unsafe": (2, 2), "faces": (2, 4)})
    assert batch_profile.from_json(batch_profile.to_json(found)) == found


def test_the_mean_of_vectors_is_that_over_all_parts(store: Store) -> None:
    vectors = np.random.default_rng(0).normal(size=(9, 8)).astype(np.float16)
    rows = [{"image_id": str(i), "embedding": list(v)} for i, v in enumerate(vectors)]
    table = tables.from_rows(rows, tables.schema("embeddings", dim=8))
    made = toy.write(store, "embeddings", {"embeddings": [table.slice(0, 4), table.slice(4)]}, "b")
    found = batch_profile.measure(store, made, "embeddings", [], vectors=True)
    np.testing.assert_allclose(found.mean, vectors.astype(np.float64).mean(axis=0))
    assert found.rows == 9


def test_an_empty_batch_has_a_profile(store: Store) -> None:
    made = toy.write(store, "embeddings", {"embeddings": tables.schema("embeddings", dim=8).empty_table()}, "b")
    found = batch_profile.measure(store, made, "embeddings", [], vectors=True)
    assert found == BatchProfile(0)
    assert mean_shift(found, [batch(1, 10, (1.0, 0.0))]) is None


@pytest.mark.parametrize(
    ("rows", "earlier", "ratio"),
    [(100, [50, 100, 400], 1), (500, [100], 5), (20, [100], 5), (7, [], None), (7, [0], None)],
)
def test_volume_is_a_ratio_to_the_median_either_way(rows: int, earlier: list[int], ratio: float | None) -> None:
    assert volume_ratio(batch(0, rows), [batch(0, n) for n in earlier]) == ratio


def test_an_empty_batch_is_infinitely_smaller() -> None:
    assert volume_ratio(batch(0, 0), [batch(0, 9)]) == float("inf")


def test_a_rate_that_moved_is_seen_and_one_within_chance_is_not() -> None:
    assert rate_shift("r", batch(300, 1000), [batch(100, 1000)]) == pytest.approx(0.2 - 3 * 0.0173, abs=1e-3)
    assert rate_shift("r", batch(3, 10), [batch(100, 1000)]) == 0
    assert rate_shift("r", batch(0, 0), [batch(1, 9)]) is None
    assert rate_shift("r", batch(1, 9), []) is None


def test_batches_of_one_rate_raise_no_alarm() -> None:
    rng = np.random.default_rng(0)
    draws = np.stack([rng.binomial(n, 0.03, 200) for n in (20, 200, 2000)], axis=1).tolist()
    shifts = [rate_shift("r", batch(b, 200), [batch(a, 20), batch(c, 2000)]) for a, b, c in draws]
    assert sum(bool(s and s > 0.02) for s in shifts) == 0


def test_a_moved_mean_is_measured_and_chance_is_taken_away() -> None:
    rng = np.random.default_rng(0)
    here, there = np.zeros(32), np.zeros(32)
    here[0], there[1] = 6.0, 6.0
    same = [mean_shift(cloud(rng, n, here), [cloud(rng, 500, here)]) for n in (5, 20, 500)]
    assert max(s or 0 for s in same) < 0.2
    moved = mean_shift(cloud(rng, 200, there), [cloud(rng, 500, here)])
    true = np.linalg.norm(np.array(cloud(rng, 100_000, here).mean) - np.array(cloud(rng, 100_000, there).mean))
    assert moved == pytest.approx(float(true), abs=0.02)


def test_a_few_vectors_that_lie_in_few_directions_raise_no_alarm() -> None:
    """An encoder of six steps spreads its vectors along a line or two, where a mean of few scatters most."""
    rng = np.random.default_rng(0)
    line = rng.choice([-1.0, 1.0], size=(400, 26))
    shifts = [
        mean_shift(BatchProfile(26, {}, (float(x.mean()), 0.0)), [BatchProfile(190, {}, (0.0, 0.0))]) for x in line
    ]
    assert sum(shift is not None and shift > 0.2 for shift in shifts) <= 4, "one in a hundred"


def test_vectors_of_another_width_are_not_compared() -> None:
    assert mean_shift(batch(0, 9, (1.0, 0.0)), [batch(0, 9, (1.0, 0.0, 0.0))]) is None


def test_only_batches_made_alike_are_comparable() -> None:
    def made(params: dict[str, int], encoder: str, own: str) -> Manifest:
        upstream = {"preliminary_encoder/all": encoder, f"filtered_set/{own}": own}
        return Manifest("embeddings", own, "f", params, upstream, ())

    assert comparable(made({"side": 1}, "e", "b1"), made({"side": 1}, "e", "b2"))
    assert not comparable(made({"side": 1}, "e", "b1"), made({"side": 2}, "e", "b2"))
    assert not comparable(made({"side": 1}, "e", "b1"), made({"side": 1}, "other", "b2"))
