"""Exact search in 16 bits equals comparing every pair in float64, whatever the vectors look like."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dinov2_core.curation import search_exact, vectors
from dinov2_core.curation.neighbours import Kind, Neighbours, NeighbourSearch, choose, measured_recall
from tests.curation.test_neighbours import plain, points

KINDS = ("random", "copies", "near copies", "one direction", "opposite", "zeros")


def cloud(kind: str, count: int, dim: int, seed: int) -> np.ndarray:
    """Vectors that are hard in one way or another."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, dim))
    if kind == "copies":
        x = x[rng.integers(0, max(1, count // 4), count)]
    elif kind == "near copies":
        x = x[rng.integers(0, max(1, count // 8), count)] + rng.normal(size=(count, dim)) * 1e-3
    elif kind == "one direction":
        x = 1 + rng.normal(size=(count, dim)) * 1e-4
    elif kind == "opposite":
        x = np.where(rng.random((count, 1)) < 0.5, 1, -1) * (1 + rng.normal(size=(count, dim)) * 0.1)
    elif kind == "zeros":
        x[rng.random(count) < 0.5] = 0
    return vectors.unit(x.astype(np.float32))


def pairs(found: Neighbours) -> list[tuple[int, int]]:
    return list(zip(found.query.tolist(), found.pool.tolist(), strict=True))


@given(
    kind=st.sampled_from(KINDS),
    count=st.integers(1, 150),
    dim=st.sampled_from([2, 7, 32]),
    k=st.sampled_from([1, 3, 8, 500]),
    threshold=st.sampled_from([-np.inf, -0.2, 0.0, 0.3, 0.999]),
    block=st.sampled_from([1, 5, 16, 64]),
    precision=st.sampled_from(["bfloat16", "float32"]),
    seed=st.integers(0, 999),
)
@settings(max_examples=120, deadline=None)
def test_the_result_is_that_of_all_pairs(
    kind: str, count: int, dim: int, k: int, threshold: float, block: int, precision: str, seed: int
) -> None:
    pool, queries = cloud(kind, count, dim, seed), cloud(kind, 1 + count // 3, dim, seed + 1)
    search = NeighbourSearch(pool, block, precision=precision)  # type: ignore[arg-type]
    assert pairs(search.above(queries, threshold, k)) == plain(queries, pool, k, threshold)


@pytest.mark.parametrize("kind", ["random", "copies", "one direction"])
def test_a_full_buffer_changes_nothing(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = cloud(kind, 600, 16, 0)
    wanted = NeighbourSearch(pool, 64).top(pool, 5)
    monkeypatch.setattr(search_exact, "_CANDIDATES", 10)
    found = NeighbourSearch(pool, 64).top(pool, 5)
    assert pairs(found) == pairs(wanted)
    assert np.array_equal(found.similarity, wanted.similarity)


def test_a_pool_that_is_not_kept_is_rounded_again_and_gives_the_same() -> None:
    pool = points(700, 3, 32)
    wanted = pairs(NeighbourSearch(pool, 64).top(pool, 9))
    for keep in (0, NeighbourSearch(pool).rounded_bytes):
        search = NeighbourSearch(pool, 64, keep=keep)
        assert pairs(search.top(pool, 9)) == wanted
        assert bool(search._kept) == bool(keep)


def test_queries_stream_in_blocks_and_count_from_the_first() -> None:
    pool = points(300, 5)
    parts = list(NeighbourSearch(pool, 128).stream(pool, 2))
    assert [int(part.query[0]) for part in parts] == [0, 128, 256]
    assert pairs(Neighbours.joined(parts)) == pairs(NeighbourSearch(pool).top(pool, 2))


@pytest.mark.parametrize(("kind", "least"), [("flat", 1.0), ("ivf", 0.9), ("ivf-pq", 0.6)])
def test_an_index_nominates_and_says_how_much_it_finds(kind: Kind, least: float) -> None:
    rng = np.random.default_rng(0)
    pool = vectors.unit(
        (rng.normal(size=(80, 32))[rng.integers(0, 80, 4000)] + rng.normal(size=(4000, 32)) * 0.5).astype(np.float32)
    )
    search = NeighbourSearch(pool, kind=kind)
    recall = measured_recall(search, pool, 8, sample=100)
    assert least <= recall <= 1.0
    # What is found carries its exact cosine.
    found = search.top(pool[:20], 4)
    exact = (pool[found.query].astype(np.float64) * pool[found.pool]).sum(axis=1).astype(np.float32)
    assert np.array_equal(found.similarity, exact)


def test_search_is_exact_until_that_is_too_much_work_and_compressed_when_memory_ends() -> None:
    assert choose(10**6, 10**6, 512) == "exact"
    assert choose(10**6, 10**6, 512, work=1e12) == "ivf"
    assert choose(10**8, 10**6, 512, work=1e12) == "ivf-pq"
