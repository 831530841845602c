"""Drawing pool images that are like a curated set: around each query, or from the clusters that the queries hit.

Rules and constants of the DINOv2 paper, section 3 and appendix A.4. Mixing several sets is in ``selection``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dinov2_core.curation.neighbours import NeighbourSearch
from dinov2_core.curation.scratch import Scratch
from dinov2_core.curation.search_pairs import rank_in_groups
from dinov2_core.curation.vectors import Rows

SAMPLE_K = 4
LARGE_SET = 1_000_000
"""Query sets of more images than this are sampled from, smaller ones go by cluster."""
MIN_HITS = 3
PER_CLUSTER = 10_000
CAP = 1_000_000
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Draws:
    """Draws of one query set, in order of rank: ``pool`` int64 [P] (a pool image may be drawn by several queries).

    ``query`` int64 [P] is −1 in cluster mode and ``cluster`` int32 [P] −1 in sample mode; ``similarity`` float32 [P] is
    to the query or the centroid; ``rank`` int32 [P] from 0. ``retrieved`` counts draws before the cap.
    """

    pool: np.ndarray
    query: np.ndarray
    cluster: np.ndarray
    similarity: np.ndarray
    rank: np.ndarray
    retrieved: int

    @property
    def collisions(self) -> int:
        """Draws of an image that was drawn already."""
        return len(self.pool) - len(np.unique(self.pool))


def sample_based(queries: Rows, search: NeighbourSearch, k: int = SAMPLE_K, *, floor: float = -np.inf) -> Draws:
    """The ``k`` nearest pool images of each query (float32 [Q, D]), as far as their cosine is over ``floor``."""
    found = search.above(queries, floor, k)
    rank = rank_in_groups(found.query)
    return Draws(
        pool=found.pool,
        query=found.query,
        cluster=np.full(len(found.pool), -1, np.int32),
        similarity=found.similarity,
        rank=rank.astype(np.int32),
        retrieved=len(found.pool),
    )


def cluster_based(
    query_clusters: np.ndarray,
    pool_clusters: np.ndarray,
    pool_similarity: np.ndarray,
    *,
    min_hits: int = MIN_HITS,
    per_cluster: int = PER_CLUSTER,
    cap: int = CAP,
    min_lift: float = 0.0,
    floor: float = -np.inf,
    seed: int = 0,
    scratch: Scratch | None = None,
) -> Draws:
    """At most ``per_cluster`` pool images of every cluster that more than ``min_hits`` queries fall into.

    The paper does not say which images of a cluster: here a seeded random sample, so that the cluster's own spread is
    kept. ``query_clusters`` int [Q], ``pool_clusters`` int [M] and ``pool_similarity`` float [M] (to the centroid) come
    from ``clustering.assign``. More than ``cap`` draws are thinned at random. Two rules beyond the paper, off by
    default: a cluster's share of the queries must be ``min_lift`` times its share of the pool, and a member's cosine to
    its centroid over ``floor``. ``scratch``: where what grows with the pool lies.
    """
    rng = np.random.default_rng(seed)
    hits = np.bincount(query_clusters) if len(query_clusters) else np.zeros(0, int)
    sizes = cluster_sizes(pool_clusters, len(hits))[: len(hits)]
    enough = hits * len(pool_clusters) >= min_lift * sizes * len(query_clusters)
    chosen = [np.zeros(0, np.int64)]
    for cluster, members in members_of(pool_clusters, np.flatnonzero((hits > min_hits) & enough), scratch):
        near = members[pool_similarity[members] > floor] if floor > -1 else members
        chosen.append(np.random.default_rng([seed, cluster]).permutation(near)[:per_cluster].copy())
    drawn = np.concatenate(chosen)
    retrieved = len(drawn)
    pool = rng.permutation(drawn)[:cap]
    return Draws(
        pool=pool,
        query=np.full(len(pool), -1, np.int64),
        cluster=pool_clusters[pool].astype(np.int32),
        similarity=pool_similarity[pool].astype(np.float32),
        rank=np.arange(len(pool), dtype=np.int32),
        retrieved=retrieved,
    )


def cluster_sizes(pool_clusters: np.ndarray, least: int = 0) -> np.ndarray:
    """How many of the pool are in each cluster: int64 [K], K at least ``least``."""
    sizes = np.zeros(least, np.int64)
    for start in range(0, len(pool_clusters), _BLOCK):
        # A count makes its input eight bytes wide, so the whole pool is not given at once.
        some = np.bincount(pool_clusters[start : start + _BLOCK], minlength=len(sizes))
        some[: len(sizes)] += sizes
        sizes = some
    return sizes


def members_of(
    pool_clusters: np.ndarray, wanted: np.ndarray, scratch: Scratch | None = None
) -> Iterator[tuple[int, np.ndarray]]:
    """``(cluster, its members)``, int64 in order, of each of ``wanted`` (sorted), by one pass over the pool."""
    sizes = cluster_sizes(pool_clusters, int(wanted.max(initial=-1)) + 1)
    chosen = np.zeros(len(sizes), bool)
    chosen[wanted] = True
    ends = np.cumsum(np.where(chosen, sizes, 0))
    count = int(ends[-1]) if len(ends) else 0
    pool = scratch.empty(count, np.int64) if scratch else np.empty(count, np.int64)
    free = ends - np.where(chosen, sizes, 0)
    for start in range(0, len(pool_clusters), _BLOCK):
        own = np.flatnonzero(chosen[pool_clusters[start : start + _BLOCK]])
        clusters = pool_clusters[start + own]
        order = np.argsort(clusters, kind="stable")
        own, clusters = own[order], clusters[order]
        pool[free[clusters] + rank_in_groups(clusters)] = start + own
        free += np.bincount(clusters, minlength=len(free))
    for cluster in wanted.tolist():
        yield cluster, pool[ends[cluster] - sizes[cluster] : ends[cluster]]


def seed_floor(queries: Rows, quantile: float) -> float:
    """The cosine that a share ``quantile`` of the queries do not reach with their own nearest other query.

    How alike the set is to itself says how alike a pool image must be to belong: 0 asks for the least that any query
    has, 0.5 for what half of them have.
    """
    if len(queries) < 2:
        return -np.inf
    found = NeighbourSearch(queries).top(queries, 2)
    other = found.similarity[found.query != found.pool]
    query = found.query[found.query != found.pool]
    _, first = np.unique(query, return_index=True)
    return float(np.quantile(other[first], quantile))
