"""Neighbours and components: the fast forms equal the plain ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components as scipy_components

from dinov2_core.curation import search_exact, vectors
from dinov2_core.curation.components import UnionFind, connected_components
from dinov2_core.curation.neighbours import NeighbourSearch


def points(count: int, seed: int, dim: int = 8) -> np.ndarray:
    return vectors.unit(np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32))


def plain(queries: np.ndarray, pool: np.ndarray, k: int, threshold: float) -> list[tuple[int, int]]:
    cosines = (queries.astype(np.float64)[:, None] * pool.astype(np.float64)[None]).sum(axis=2).astype(np.float32)
    pairs = []
    for q, row in enumerate(cosines):
        near = sorted(range(len(pool)), key=lambda p: (-row[p], p))[:k]
        pairs += [(q, p) for p in near if row[p] > threshold]
    return pairs


@pytest.mark.parametrize("block", [7, 50, 4096])
@pytest.mark.parametrize("k", [1, 5, 1000])
def test_neighbours_above_a_threshold_are_all_found(block: int, k: int) -> None:
    pool, queries = points(120, 0), points(33, 1)
    pool[7] = pool[3]  # ties go to the lower index
    found = NeighbourSearch(pool, block).above(queries, 0.4, k)
    assert list(zip(found.query.tolist(), found.pool.tolist(), strict=True)) == plain(queries, pool, k, 0.4)


@pytest.mark.parametrize("k", [1, 4, 200])
def test_the_nearest_are_found(k: int) -> None:
    pool, queries = points(120, 2), points(33, 3)
    found = NeighbourSearch(pool).top(queries, k)
    assert list(zip(found.query.tolist(), found.pool.tolist(), strict=True)) == plain(queries, pool, k, -2)


def test_block_size_changes_no_bit() -> None:
    pool = points(500, 4, 64)
    results = [NeighbourSearch(pool, block).above(pool, 0.3, 9) for block in (64, 1000)]
    for name in ("query", "pool", "similarity"):
        assert np.array_equal(getattr(results[0], name), getattr(results[1], name))


@pytest.mark.parametrize("keep", [0, 1 << 20])
@pytest.mark.parametrize("count", [1, 2, 500])
def test_threads_change_no_bit(keep: int, count: int) -> None:
    pool = points(500, 4, 64)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(NeighbourSearch(pool, 64, keep=keep).above(pool[:count], 0.3, 9))
    finally:
        torch.set_num_threads(before)
    assert set(results[0].query) == set(range(count))
    for name in ("query", "pool", "similarity"):
        assert np.array_equal(getattr(results[0], name), getattr(results[1], name))


def test_every_share_of_scores_is_looked_at() -> None:
    scores = torch.from_numpy(np.random.default_rng(0).integers(-900, 900, (1000, 64)).astype(np.int16))
    limit = np.random.default_rng(1).integers(500, 900, 1000).astype(np.int16)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        rows, columns, values = search_exact._over(scores, limit)
    finally:
        torch.set_num_threads(before)
    expected = np.nonzero(scores.numpy() >= limit[:, None])
    assert np.array_equal(rows, expected[0])
    assert np.array_equal(columns, expected[1])
    assert np.array_equal(values, scores.numpy()[expected])


def test_nothing_has_no_neighbours() -> None:
    empty, some = np.zeros((0, 8), np.float32), points(3, 0)
    for pool, queries in ((empty, some), (some, empty)):
        assert len(NeighbourSearch(pool).above(queries, 0.1, 4).pool) == 0
        assert len(NeighbourSearch(pool).top(queries, 4).pool) == 0


@given(nodes=st.integers(1, 200), edges=st.integers(0, 300), blocks=st.integers(1, 5), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=80, deadline=None)
def test_components_are_scipys_named_by_their_smallest_node(nodes: int, edges: int, blocks: int, seed: int) -> None:
    ends = np.random.default_rng(seed).integers(0, nodes, (2, edges))
    labels = connected_components(nodes, zip(*(np.array_split(e, blocks) for e in ends), strict=True))
    graph = coo_matrix((np.ones(edges), (ends[0], ends[1])), shape=(nodes, nodes))
    _, expected = scipy_components(graph, directed=False)
    smallest = np.array([np.flatnonzero(expected == expected[node])[0] for node in range(nodes)])
    assert np.array_equal(labels, smallest)


def test_a_long_chain_is_one_component() -> None:
    order = np.random.default_rng(0).permutation(100_000)
    sets = UnionFind(100_000)
    sets.union(order[:-1], order[1:])
    assert not sets.labels().any()


def test_a_long_search_shows_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr("dinov2_core.progress.Progress.advance", lambda self, count=1, note="": seen.append(count))
    rows = points(70, 0)
    search = NeighbourSearch(rows, block=32)
    quiet = search.above(rows, 0.1, 5)
    assert not seen
    told = search.above(rows, 0.1, 5, label="comparing")
    assert sum(seen) == len(rows)
    assert np.array_equal(told.pool, quiet.pool)
