"""Clustering, retrieval, balanced sampling and mixing: the paper's rules on worked examples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dinov2_core.curation import retrieval, vectors
from dinov2_core.curation.balanced import balanced_sample, quotas
from dinov2_core.curation.clustering import assign, hierarchical_kmeans, kmeans
from dinov2_core.curation.composition import Line, markdown
from dinov2_core.curation.neighbours import NeighbourSearch
from dinov2_core.curation.retrieval import cluster_based, cluster_sizes, members_of, sample_based, seed_floor
from dinov2_core.curation.scratch import Scratch
from dinov2_core.curation.selection import SetRecipe, by_size, complete, mix
from dinov2_core.errors import ConfigError


def blobs(sizes: list[int], seed: int = 0, spread: float = 0.05, dim: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors around one random direction each, and which direction each belongs to."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(len(sizes), dim))
    truth = np.repeat(np.arange(len(sizes)), sizes)
    noise = rng.normal(size=(len(truth), dim)) * spread
    return vectors.unit((centres[truth] + noise).astype(np.float32)), truth


def test_kmeans_finds_what_is_apart_and_repeats() -> None:
    x, truth = blobs([40, 40, 40, 40])
    centroids = kmeans(x, 8, seed=1)
    members, similarity = assign(x, centroids)
    assert all(len(set(truth[members == m])) == 1 for m in np.unique(members)), "no cluster holds two subjects"
    assert similarity.min() > 0.9
    assert np.array_equal(centroids, kmeans(x, 8, seed=1))
    np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1, atol=1e-6)
    assert len(kmeans(x[:3], 10)) == 3


def test_resampling_gives_rare_subjects_their_own_clusters() -> None:
    x, truth = blobs([2000, *[20] * 12], spread=0.25)

    def rare(rounds: int) -> int:
        (level,) = hierarchical_kmeans(x, (26,), rounds=rounds, nearest=5)
        return sum(len(set(level.members[truth == t]) - set(level.members[truth == 0])) > 0 for t in range(1, 13))

    def common(rounds: int) -> int:
        (level,) = hierarchical_kmeans(x, (26,), rounds=rounds, nearest=5)
        return len(set(level.members[truth == 0]))

    assert rare(5) >= rare(0)
    assert common(5) < common(0)


def test_clusters_whose_points_lie_in_files_are_the_same() -> None:
    x, _ = blobs([60] * 9, spread=0.3)
    with Scratch(0) as scratch:
        assert np.array_equal(kmeans(x, 9, scratch=scratch), kmeans(x, 9))
        for one, two in zip(
            hierarchical_kmeans(x, (18, 3), rounds=2, scratch=scratch),
            hierarchical_kmeans(x, (18, 3), rounds=2),
            strict=True,
        ):
            assert np.array_equal(one.centroids, two.centroids)
            assert np.array_equal(one.members, two.members)
        assert scratch.on_disk == 2, "the points of each fit are given back"


def test_levels_stack() -> None:
    x, _ = blobs([60] * 9)
    fine, coarse = hierarchical_kmeans(x, (27, 3), rounds=1)
    assert fine.members.shape == (540,)
    assert coarse.members.shape == (len(fine.centroids),) == (27,)
    assert coarse.members.max() < 3


@given(sizes=st.lists(st.integers(0, 50), max_size=20), target=st.integers(0, 400), seed=st.integers(0, 99))
def test_quotas_are_as_even_as_the_groups_allow(sizes: list[int], target: int, seed: int) -> None:
    groups = np.array(sizes, dtype=np.int64)
    share = quotas(groups, target, np.random.default_rng(seed))
    assert share.sum() == min(target, sum(sizes))
    assert (share <= groups).all()
    # Whoever gets less than another has nothing left to give, but for the one of the remainder.
    for mine, size in zip(share.tolist(), sizes, strict=True):
        assert mine == size or mine >= share.max(initial=0) - 1


def test_a_balanced_sample_is_flat_where_the_pool_is_not() -> None:
    leaves = np.repeat(np.arange(4), [1000, 100, 100, 10])
    parents = np.array([0, 0, 1, 1])
    drawn = balanced_sample([leaves, parents], 200)
    assert len(drawn) == len(np.unique(drawn)) == 200
    assert np.bincount(leaves[drawn]).tolist() == [50, 50, 90, 10]
    assert np.array_equal(drawn, balanced_sample([leaves, parents], 200))
    assert len(balanced_sample([leaves, parents], 10**6)) == len(leaves)


def test_a_balanced_sample_is_the_one_that_a_scan_a_cluster_draws() -> None:
    rng = np.random.default_rng(5)
    leaves, parents = rng.zipf(1.5, 2000) % 40, rng.integers(0, 5, 40)
    plain = np.random.default_rng(3)
    weights = np.bincount(parents, weights=np.bincount(leaves, minlength=40), minlength=5).astype(np.int64)
    above, below = quotas(weights, 500, plain), np.zeros(40, np.int64)
    for parent in np.flatnonzero(above):
        own = np.flatnonzero(parents == parent)
        below[own] = quotas(np.bincount(leaves, minlength=40)[own], int(above[parent]), plain)
    drawn = [plain.permutation(np.flatnonzero(leaves == leaf))[: below[leaf]] for leaf in np.flatnonzero(below)]
    assert np.array_equal(balanced_sample([leaves, parents], 500, seed=3), np.sort(np.concatenate(drawn)))


def test_sample_mode_draws_the_nearest_and_counts_collisions() -> None:
    pool, _ = blobs([10, 10], spread=0.2)
    draws = sample_based(np.concatenate([pool[:2], pool[:1]]), NeighbourSearch(pool), 4)
    assert len(draws.pool) == draws.retrieved == 12
    assert draws.pool[draws.rank == 0].tolist() == [0, 1, 0]
    assert np.array_equal(draws.pool[draws.query == 0], draws.pool[draws.query == 2])
    assert draws.collisions == 12 - len(set(draws.pool.tolist())) >= 4


def test_cluster_mode_needs_more_than_three_hits() -> None:
    pool = np.repeat(np.arange(3), 50)
    queries = np.array([0] * 3 + [1] * 4)
    draws = cluster_based(queries, pool, np.ones(150, np.float32), per_cluster=20)
    assert set(draws.cluster.tolist()) == {1}
    assert len(draws.pool) == len(set(draws.pool.tolist())) == draws.retrieved == 20


@given(st.lists(st.integers(0, 9), max_size=60), st.sets(st.integers(0, 12)), st.sampled_from([0, 10**6]))
@settings(max_examples=40, deadline=None)
def test_members_are_those_that_a_scan_a_cluster_finds(pool: list[int], wanted: set[int], memory: int) -> None:
    clusters = np.array(pool, np.int32)
    with Scratch(memory) as scratch, pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieval, "_BLOCK", 7)
        found = {c: own.tolist() for c, own in members_of(clusters, np.array(sorted(wanted), np.int64), scratch)}
        assert np.array_equal(cluster_sizes(clusters, 13), np.bincount(clusters, minlength=13))
    assert found == {c: np.flatnonzero(clusters == c).tolist() for c in wanted}


def test_draws_that_lie_in_files_are_the_same() -> None:
    pool = np.repeat(np.arange(10), 30)
    queries, alike = np.repeat(np.arange(10), 4), np.ones(300, np.float32)
    with Scratch(0) as scratch:
        for one, two in (
            (balanced_sample([pool], 77, scratch=scratch), balanced_sample([pool], 77)),
            (
                cluster_based(queries, pool, alike, cap=50, scratch=scratch).pool,
                cluster_based(queries, pool, alike, cap=50).pool,
            ),
            (mix([pool[:99]], pool, scratch=scratch)[0], mix([pool[:99]], pool)[0]),
        ):
            assert np.array_equal(one, two)
        assert scratch.on_disk == 3


def test_a_cluster_must_be_as_much_the_seeds_as_min_lift_says() -> None:
    pool = np.repeat([0, 1], [90, 10])
    queries = np.repeat([0, 1], [5, 5])
    draws = cluster_based(queries, pool, np.ones(100, np.float32), min_lift=2.0)
    # Half of the seeds are in either cluster; that is five times the share of the small one in the pool.
    assert set(draws.cluster.tolist()) == {1}
    assert set(cluster_based(queries, pool, np.ones(100, np.float32)).cluster.tolist()) == {0, 1}


def test_the_floor_is_how_alike_seeds_are_to_their_nearest() -> None:
    angles = np.deg2rad([0, 10, 30, 90])
    seeds = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    assert seed_floor(seeds, 0) == pytest.approx(np.cos(np.deg2rad(60)))
    assert seed_floor(seeds, 1) == pytest.approx(np.cos(np.deg2rad(10)))
    assert seed_floor(seeds[:1], 0.5) == -np.inf


def test_the_cap_thins_what_was_retrieved_at_random() -> None:
    pool = np.repeat(np.arange(10), 30)
    draws = cluster_based(np.repeat(np.arange(10), 4), pool, np.ones(300, np.float32), per_cluster=30, cap=100)
    assert (draws.retrieved, len(draws.pool)) == (300, 100)
    assert len(set(draws.cluster.tolist())) == 10
    assert cluster_based(np.zeros(0, int), pool, np.ones(300, np.float32)).retrieved == 0


def test_sets_without_a_recipe_follow_the_papers_rule() -> None:
    assert by_size("imagenet-22k", 14_197_086).modes == ("as is", "sample")
    assert by_size("cub", 5_994).modes == ("cluster",)
    named = SetRecipe("b", ("sample",), k=32)
    assert complete([named], {"b": 10, "a": 10}) == [by_size("a", 10), named]


@pytest.mark.parametrize(
    ("recipes", "message"),
    [
        ([SetRecipe("cifar", ("sample",))], "did you mean 'cifar10'"),
        ([SetRecipe("cifar10", ("as is",))] * 2, "two rec"),
    ],
)
def test_wrong_recipes_are_named(recipes: list[SetRecipe], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        complete(recipes, {"cifar10": 5})


def test_recipes_refuse_senseless_numbers() -> None:
    with pytest.raises(ValueError, match="under 1"):
        SetRecipe("a", ("sample",), k=0)
    with pytest.raises(ValueError, match="one mode"):
        SetRecipe("a", ())


@given(st.lists(st.lists(st.integers(0, 7), max_size=8), max_size=4), st.integers(0, 9))
@settings(max_examples=50)
def test_mixing_keeps_each_image_once_under_its_first_source(draws: list[list[int]], seed: int) -> None:
    names = np.array([b"d", b"a", b"h", b"c", b"b", b"g", b"f", b"e"])
    drawn = [np.array(images, np.int64) for images in draws]
    chosen, source = mix(drawn, names, seed=seed)
    assert sorted(chosen.tolist()) == sorted({image for images in draws for image in images})
    for image, number in zip(chosen.tolist(), source.tolist(), strict=True):
        assert number == next(n for n, images in enumerate(draws) if image in images)
    assert np.array_equal(mix(drawn[::-1], names, seed=seed)[0], chosen)
    # The order hangs on the names alone.
    renumbered = np.argsort(names)
    place = np.argsort(renumbered)
    again, _ = mix([place[images] for images in drawn], names[renumbered], seed=seed)
    assert np.array_equal(names[chosen], names[renumbered][again])


def test_the_composition_reads_like_table_15() -> None:
    table = markdown(
        [Line("cls", "IN-22k", 10, "as is", 0, 10), Line("seg", "ADE20K", 20_210, "cluster", 20_720_000, 10**6)]
    )
    assert "| cls | IN-22k | 10 | as is | – | 10 |" in table
    assert "| seg | ADE20K | 20,210 | cluster | 20,720,000 | 1,000,000 |" in table
    assert table.endswith("**1,000,010** |")
