"""Spherical k-means whose assignment is spread over an engine: one task a block of points, in every iteration.

A task leaves the sums of its points by cluster on storage, for the clusters that it met; they are added in order of
the blocks, so the centroids do not depend on who computed what. On one machine ``clustering.kmeans`` is faster.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np

from dinov2_core.curation.clustering import assign
from dinov2_core.curation.matrix_files import MatrixFiles
from dinov2_core.curation.sharded_search import Map
from dinov2_core.curation.vectors import unit
from dinov2_core.shard_map import Summary, Task
from dinov2_core.storage import Store


def kmeans(
    mapped: Map,
    store: Store,
    folder: str,
    points: MatrixFiles,
    clusters: int,
    *,
    seed: int = 0,
    iterations: int = 20,
    block: int = 1 << 16,
) -> np.ndarray:
    """Centroids of the rows of ``points``: float32 [K, D], K = min(clusters, N).

    Starts from K different rows drawn by ``seed``. A cluster that loses all its points is put a hair away from one of
    the largest, which splits that one in the next iteration.

    Args:
        folder: of the store, where centroids and sums are kept; a run that was killed goes on from its last whole
            iteration.
    """
    clusters = min(clusters, len(points))
    steps = [step for step in range(iterations + 1) if store.exists(_centroids(folder, step))]
    if not steps:
        drawn = np.sort(np.random.default_rng(seed).permutation(len(points))[:clusters])
        _save(store, _centroids(folder, 0), points[drawn])
    for step in range(max(steps, default=0), iterations):
        tasks = {
            f"step-{step:04d}-{number:06d}": {
                "folder": folder,
                "points": points.task(),
                "rows": [start, min(start + block, len(points))],
                "centroids": _centroids(folder, step),
            }
            for number, start in enumerate(range(0, len(points), block))
        }
        done = mapped(assign_block, tasks)
        sums, counts = np.zeros((clusters, points.dim)), np.zeros(clusters, np.int64)
        for own, part, number in _partials(store, done):
            sums[own] += part
            counts[own] += number
        _save(store, _centroids(folder, step + 1), unit(_without_empty(sums, counts)))
        for summary in done:
            store.delete(summary["path"])
    return _load(store, _centroids(folder, iterations))


def _centroids(folder: str, step: int) -> str:
    return f"{folder}/centroids-{step:04d}.npy"


def assign_block(task: Task) -> Summary:
    """The sums of a block's points by the cluster whose centroid is nearest, left in a file."""
    store, points = Store(task["root"]), MatrixFiles.of(task["points"])
    rows = points[task["rows"][0] : task["rows"][1]]
    cluster, _ = assign(rows, _load(store, task["centroids"]))
    order = np.argsort(cluster, kind="stable")
    own, first, counts = np.unique(cluster[order], return_index=True, return_counts=True)
    sums = np.add.reduceat(rows[order].astype(np.float64), first, axis=0)
    buffer = io.BytesIO()
    np.savez(buffer, own=own, sums=sums, counts=counts)
    path = f"{task['folder']}/{task['key']}.npz"
    store.write_bytes(path, buffer.getvalue())
    return {"points": len(rows), "path": path}


def _partials(store: Store, summaries: list[Summary]) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    for summary in summaries:
        with np.load(io.BytesIO(store.read_bytes(summary["path"]))) as found:
            yield found["own"], found["sums"], found["counts"]


def _without_empty(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Means (up to their length, float64 [K, D]) with every empty cluster put beside one of the largest."""
    empty = np.flatnonzero(counts == 0)
    largest = np.argsort(-counts, kind="stable")[: len(empty)]
    for gone, source in zip(empty, largest, strict=True):
        nudge = np.where(np.arange(sums.shape[1]) % 2, 1 - 1e-3, 1 + 1e-3)
        sums[gone] = sums[source] * nudge
        sums[source] = sums[source] * (2 - nudge)
    return sums


def _save(store: Store, path: str, matrix: np.ndarray) -> None:
    buffer = io.BytesIO()
    np.save(buffer, matrix, allow_pickle=False)
    store.write_bytes(path, buffer.getvalue())


def _load(store: Store, path: str) -> np.ndarray:
    return np.asarray(np.load(io.BytesIO(store.read_bytes(path)), allow_pickle=False))
