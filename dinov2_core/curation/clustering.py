"""k-means on the sphere, flat and in levels.

What clusters are used for is in ``retrieval`` and ``balanced``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import faiss
import numpy as np

from dinov2_core.curation import vectors
from dinov2_core.curation.neighbours import NeighbourSearch


def kmeans(points: np.ndarray, clusters: int, *, seed: int = 0, iterations: int = 20) -> np.ndarray:
    """Centroids of float32 [N, D] unit rows by spherical k-means: float32 [K, D], K = min(clusters, N).

    Equal inputs give equal centroids: seeded, and on one thread, since sums over threads come in any order.
    """
    clusters = min(clusters, len(points))
    if clusters == len(points):
        return points
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        model = faiss.Kmeans(
            points.shape[1], clusters, niter=iterations, seed=seed, spherical=True, min_points_per_centroid=1
        )
        model.train(np.ascontiguousarray(points, dtype=np.float32))
    finally:
        faiss.omp_set_num_threads(before)
    return vectors.unit(np.asarray(model.centroids))


def assign(points: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nearest centroid of each point and the cosine to it: int32 [N], float32 [N]."""
    found = NeighbourSearch(centroids).top(points, 1)
    return found.pool.astype(np.int32), found.similarity


@dataclass(frozen=True)
class Level:
    """Centroids float32 [K, D] of one level, and the cluster of each item of the level below: int32 [M]."""

    centroids: np.ndarray
    members: np.ndarray


def hierarchical_kmeans(
    points: np.ndarray,
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
    items = points
    for depth, count in enumerate(counts):
        centroids = kmeans(items, count, seed=seed + depth, iterations=iterations)
        members, similarity = assign(items, centroids)
        for _ in range(rounds):
            chosen = _nearest(members, similarity, nearest)
            centroids = kmeans(items[chosen], count, seed=seed + depth, iterations=iterations)
            members, similarity = assign(items, centroids)
        levels.append(Level(centroids, members))
        items = centroids
    return levels


def _nearest(members: np.ndarray, similarity: np.ndarray, count: int) -> np.ndarray:
    """Indices of the ``count`` items of each cluster that are nearest to its centroid, sorted."""
    order = np.lexsort((np.arange(len(members)), -similarity, members))
    starts = np.flatnonzero(np.diff(members[order], prepend=-1))
    rank = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
    return np.sort(order[rank < count])
