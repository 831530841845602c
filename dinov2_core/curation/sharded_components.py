"""Connected components whose edges lie in many files: one task a file, and the partial labels merged.

A task replaces its edges by a forest that joins the same nodes: no more edges than nodes it saw, whatever their number.
Merging is ``components.UnionFind`` again, which does not depend on the order of edges, so the labels are those of one
pass over all of them.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

import numpy as np

from dinov2_core.curation.components import UnionFind
from dinov2_core.curation.scratch import Scratch
from dinov2_core.curation.sharded_search import Map
from dinov2_core.shard_map import Summary, Task
from dinov2_core.storage import Store


def components(
    mapped: Map, store: Store, folder: str, edges: Sequence[str], nodes: int, scratch: Scratch | None = None
) -> np.ndarray:
    """For each of ``nodes`` nodes the smallest node of its component, as ``UnionFind.labels``.

    Args:
        folder: of the store, where the forests are left.
        edges: files of the store, ``.npy`` of int [E, 2]: positions of the ends.
        scratch: where the labels lie; in memory without one.
    """
    tasks = {f"forest-{i:06d}": {"folder": folder, "edges": path} for i, path in enumerate(edges)}
    sets = UnionFind(nodes, scratch)
    for summary in mapped(forest_of, tasks):
        joined = np.load(io.BytesIO(store.read_bytes(summary["path"])), allow_pickle=False)
        sets.union(joined[:, 0], joined[:, 1])
    return sets.labels()


def write_edges(store: Store, folder: str, blocks: Iterable[np.ndarray], size: int) -> list[str]:
    """Write edges, int [E, 2] a block, to files of at least ``size`` edges but for the last: their paths."""
    paths: list[str] = []
    waiting: list[np.ndarray] = []

    def write() -> None:
        buffer = io.BytesIO()
        np.save(buffer, np.concatenate(waiting), allow_pickle=False)
        paths.append(store.write_bytes(f"{folder}/{len(paths):06d}.npy", buffer.getvalue()).path)
        waiting.clear()

    for block in blocks:
        waiting.append(block)
        if sum(map(len, waiting)) >= size:
            write()
    if waiting:
        write()
    return paths


def forest_of(task: Task) -> Summary:
    """Leave the forest of one file of edges: ``.npy`` of int64 [F, 2], nodes and their smallest companions."""
    store = Store(task["root"])
    edges = np.load(io.BytesIO(store.read_bytes(task["edges"])), allow_pickle=False)
    found = forest(edges)
    buffer = io.BytesIO()
    np.save(buffer, found, allow_pickle=False)
    path = f"{task['folder']}/{task['key']}.npy"
    store.write_bytes(path, buffer.getvalue())
    return {"edges": len(edges), "forest": len(found), "path": path}


def forest(edges: np.ndarray) -> np.ndarray:
    """Edges int64 [F, 2] that join what ``edges``, int [E, 2], join; F is less than the number of nodes in them.

    Nodes are numbered anew among themselves, so memory follows the edges and not the pool.
    """
    known, ends = np.unique(edges.reshape(-1), return_inverse=True)
    ends = ends.reshape(-1, 2)
    sets = UnionFind(len(known))
    sets.union(ends[:, 0], ends[:, 1])
    labels = sets.labels()
    children = np.flatnonzero(labels != np.arange(len(labels)))
    return np.stack([known[children], known[labels[children]]], axis=1).astype(np.int64)
