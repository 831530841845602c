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
from dinov2_core.curation.search_pairs import rank_in_groups
from dinov2_core.curation.vectors import PickedRows, Rows, rows_of

_BLOCK = 1 << 16
POINTS_PER_CLUSTER = 256
"""k-means is fitted to no more than this many points a cluster: more move the centroids little."""


def kmeans(points: Rows, clusters: int, *, seed: int = 0, iterations: int = 20) -> np.ndarray:
    """Centroids of [N, D] unit rows by spherical k-means: float32 [K, D], K = min(clusters, N).

    Fitted to the first ``POINTS_PER_CLUSTER · K`` rows, which are a random sample where rows are in order of a hash, as
    the pool's are. Equal inputs give equal centroids: seeded, and on one thread, since sums over threads come in any
    order.
    """
    clusters = min(clusters, len(points))
    sample = np.ascontiguousarray(rows_of(points, 0, min(len(points), POINTS_PER_CLUSTER * clusters)))
    if clusters == len(points):
        return sample
    before = faiss.omp_get_max_threads()
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
) -> list[Level]:
    """k-means, then k-means on its centroids, and so on: one level for each of ``counts``, finest first.

    Centroids follow the density of what they are fitted to, so a common subject takes most of them. Each of ``rounds``
    fits them again to the ``nearest`` items of every cluster, which counts each cluster equally and pulls the
    centroids towards uniform cover (Vo et al., 2024, arXiv 2405.15613).
    """
    levels: list[Level] = []
    items: Rows = points
    for depth, count in enumerate(counts):
        centroids = kmeans(items, count, seed=seed + depth, iterations=iterations)
        for _ in range(rounds):
            chosen = _passed(items, centroids, nearest)[1]
            centroids = kmeans(PickedRows(items, chosen), count, seed=seed + depth, iterations=iterations)
        levels.append(Level(centroids, _passed(items, centroids, 0)[0]))
        items = centroids
    return levels


def _passed(items: Rows, centroids: np.ndarray, nearest: int) -> tuple[np.ndarray, np.ndarray]:
    """Each item's cluster, int32 [N], and the sorted indices of the ``nearest`` items of each cluster's centroid."""
    members = np.empty(len(items), np.int32)
    chosen, similarity = np.zeros(0, np.int64), np.zeros(0, np.float32)
    for start, cluster, cosine in assigned(items, centroids, block=_BLOCK):
        members[start : start + len(cluster)] = cluster
        if not nearest:
            continue
        # The nearest so far compete with those of this block.
        chosen = np.concatenate([chosen, np.arange(start, start + len(cluster))])
        similarity = np.concatenate([similarity, cosine])
        order = np.lexsort((chosen, -similarity, members[chosen]))
        order = order[rank_in_groups(members[chosen[order]]) < nearest]
        chosen, similarity = chosen[order], similarity[order]
    return members, np.sort(chosen)
