"""Drawing pool images that are like a curated set: around each query, or from the clusters that the queries hit.

Rules and constants of the DINOv2 paper, section 3 and appendix A.4. Mixing several sets is in ``selection``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dinov2_core.curation.neighbours import NeighbourSearch

SAMPLE_K = 4
LARGE_SET = 1_000_000
"""Query sets of more images than this are sampled from, smaller ones go by cluster."""
MIN_HITS = 3
PER_CLUSTER = 10_000
CAP = 1_000_000


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


def sample_based(queries: np.ndarray, search: NeighbourSearch, k: int = SAMPLE_K) -> Draws:
    """The ``k`` nearest pool images of each query (float32 [Q, D])."""
    found = search.top(queries, k)
    starts = np.flatnonzero(np.diff(found.query, prepend=-1))
    rank = np.arange(len(found.query)) - np.repeat(starts, np.diff(np.append(starts, len(found.query))))
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
    seed: int = 0,
) -> Draws:
    """At most ``per_cluster`` pool images of every cluster that more than ``min_hits`` queries fall into.

    The paper does not say which images of a cluster: here a seeded random sample, so that the cluster's own spread is
    kept. ``query_clusters`` int [Q], ``pool_clusters`` int [M] and ``pool_similarity`` float [M] (to the centroid) come
    from ``clustering.assign``. More than ``cap`` draws are thinned at random.
    """
    rng = np.random.default_rng(seed)
    hits = np.bincount(query_clusters) if len(query_clusters) else np.zeros(0, int)
    chosen = [np.zeros(0, np.int64)]
    for cluster in np.flatnonzero(hits > min_hits):
        members = np.flatnonzero(pool_clusters == cluster)
        chosen.append(rng.permutation(members)[:per_cluster])
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
