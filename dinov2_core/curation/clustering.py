"""k-means on the sphere, flat and in levels.

What clusters are used for is in ``retrieval`` and ``balanced``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import faiss
import numpy as np

from dinov2_core.curation import vectors
from dinov2_core.curation.neighbours import NeighbourSearch
from dinov2_core.curation.scratch import Scratch
from dinov2_core.curation.search_pairs import rank_in_groups
from dinov2_core.curation.vectors import PickedRows, Rows, rows_of

_BLOCK, _UNBOUNDED = 1 << 16, 1 << 62
POINTS_PER_CLUSTER = 256
"""k-means is fitted to no more than this many points a cluster: more move the centroids little."""


def kmeans(
    points: Rows, clusters: int, *, seed: int = 0, iterations: int = 20, scratch: Scratch | None = None
) -> np.ndarray:
    """Centroids of [N, D] unit rows by spherical k-means: float32 [K, D], K = min(clusters, N).

    Fitted to the first ``POINTS_PER_CLUSTER · K`` rows, which are a random sample where rows are in order of a hash, as
    the pool's are. Equal inputs give equal centroids: seeded, and on one thread, since sums over threads come in any
    order. ``scratch``: where the points it is fitted to lie; in memory without one.
    """
    clusters = min(clusters, len(points))
    if clusters == len(points):
        return np.array(rows_of(points, 0, clusters))
    count = min(len(points), POINTS_PER_CLUSTER * clusters)
    before = faiss.omp_get_max_threads()
    with scratch.lend() if scratch else Scratch(_UNBOUNDED) as own:
        # Faiss notes the nearest centroid of every point and the cosine to it.
        own.room(12 * count)
        sample = own.empty((count, points.shape[1]), np.float32)
        for start in range(0, count, _BLOCK):
            sample[start : start + _BLOCK] = rows_of(points, start, min(start + _BLOCK, count))
        faiss.omp_set_num_threads(1)
        try:
            model = faiss.Kmeans(
                points.shape[1], clusters, niter=iterations, seed=seed, spherical=True, min_points_per_centroid=1
            )
            model.train(sample)
        finally:
            faiss.omp_set_num_threads(before)
    return vectors.unit(np.asarray(model.centroids))


def assign(points: Rows, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nearest centroid of each point and the cosine to it: int32 [N], float32 [N]."""
    found = NeighbourSearch(centroids).top(points, 1)
    return found.pool.astype(np.int32), found.similarity


def assigned(points: Rows, centroids: np.ndarray, *, block: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """``(first point, nearest centroids, cosines)`` of one block of points after another."""
    for start in range(0, len(points), block):
        yield start, *assign(rows_of(points, start, min(start + block, len(points))), centroids)


@dataclass(frozen=True)
class Level:
    """Centroids float32 [K, D] of one level, and the cluster of each item of the level below: int32 [M]."""

    centroids: np.ndarray
    members: np.ndarray


def hierarchical_kmeans(
    points: Rows,
    counts: Sequence[int],
    *,
    seed: int = 0,
    rounds: int = 10,
    nearest: int = 3,
    iterations: int = 20,
    scratch: Scratch | None = None,
) -> list[Level]:
    """k-means, then k-means on its centroids, and so on: one level for each of ``counts``, finest first.

    Centroids follow the density of what they are fitted to, so a common subject takes most of them. Each of ``rounds``
    fits them again to the ``nearest`` items of every cluster, which counts each cluster equally and pulls the
    centroids towards uniform cover (Vo et al., 2024, arXiv 2405.15613).
    """
    levels: list[Level] = []
    items: Rows = points
    for depth, count in enumerate(counts):
        centroids = kmeans(items, count, seed=seed + depth, iterations=iterations, scratch=scratch)
        for _ in range(rounds):
            chosen = PickedRows(items, _nearest(items, centroids, nearest))
            centroids = kmeans(chosen, count, seed=seed + depth, iterations=iterations, scratch=scratch)
        levels.append(Level(centroids, _members(items, centroids, scratch)))
        items = centroids
    return levels


def _members(items: Rows, centroids: np.ndarray, scratch: Scratch | None) -> np.ndarray:
    """Each item's cluster: int32 [N]."""
    members = (scratch or Scratch(_UNBOUNDED)).empty(len(items), np.int32)
    for start, cluster, _ in assigned(items, centroids, block=_BLOCK):
        members[start : start + len(cluster)] = cluster
    return members


def _nearest(items: Rows, centroids: np.ndarray, nearest: int) -> np.ndarray:
    """The sorted indices of the ``nearest`` items of each cluster's centroid: int64 [P]."""
    chosen, clusters, similarity = np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32)
    for start, cluster, cosine in assigned(items, centroids, block=_BLOCK):
        # The nearest so far compete with those of this block.
        chosen = np.concatenate([chosen, np.arange(start, start + len(cluster))])
        clusters, similarity = np.concatenate([clusters, cluster]), np.concatenate([similarity, cosine])
        order = np.lexsort((chosen, -similarity, clusters))
        order = order[rank_in_groups(clusters[order]) < nearest]
        chosen, clusters, similarity = chosen[order], clusters[order], similarity[order]
    return np.sort(chosen)
