"""Nearest neighbours by tiles: a block of queries against a block of the pool is one task, on any engine.

Similarities are summed pair by pair in float64 and ties go by position, so the best of the tiles' best are the pairs
that one search over the whole pool finds. A tile reads its rows from storage and leaves its pairs there; only counts
travel. The search within a tile is in ``neighbours``.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from dinov2_core.curation.matrix_files import MatrixFiles
from dinov2_core.curation.neighbours import NeighbourSearch
from dinov2_core.curation.search_pairs import Neighbours, rank_in_groups
from dinov2_core.shard_map import Summary, Task
from dinov2_core.storage import Store

Map = Callable[[Callable[[Task], Summary], Mapping[str, Task]], list[Summary]]
"""``StageRun.map``, or anything like it: each task gets ``root`` and ``key`` beside its own values."""


def search(
    mapped: Map,
    folder: str,
    queries: MatrixFiles,
    pool: MatrixFiles,
    *,
    k: int,
    threshold: float = -np.inf,
    query_block: int = 1 << 16,
    pool_block: int = 1 << 20,
    device: str = "cpu",
    name: str = "tile",
) -> Iterator[Neighbours]:
    """The at most ``k`` pool rows of each query with cosine over ``threshold``, one block of queries after another.

    The same pairs as ``NeighbourSearch(pool).stream(queries, k, threshold)`` (kind ``exact``). Tiles leave theirs below
    ``folder`` of the store, a place that is removed when all is done; ``name`` tells the tasks of two searches apart.
    """
    tiles = {
        f"{name}-{q:06d}-{p:06d}": {
            "folder": folder,
            "queries": queries.task(),
            "pool": pool.task(),
            "query_rows": [start, min(start + query_block, len(queries))],
            "pool_rows": [first, min(first + pool_block, len(pool))],
            "k": k,
            "threshold": float(threshold),
            "device": device,
        }
        for q, start in enumerate(range(0, len(queries), query_block))
        for p, first in enumerate(range(0, len(pool), pool_block))
    }
    keys = sorted(tiles)
    done = dict(zip(keys, mapped(search_tile, tiles), strict=True))
    for q in range(-(-len(queries) // query_block)):
        mine = [done[key] for key in keys if key.startswith(f"{name}-{q:06d}-")]
        yield best([_read(summary) for summary in mine], k)


def search_tile(task: Task) -> Summary:
    """Search one tile and leave its pairs in a file."""
    queries, pool = MatrixFiles.of(task["queries"]), MatrixFiles.of(task["pool"])
    (start, stop), (first, last) = task["query_rows"], task["pool_rows"]
    near = NeighbourSearch(pool[first:last], device=task["device"])
    found = Neighbours.joined(near.stream(queries[start:stop], task["k"], task["threshold"]))
    buffer = io.BytesIO()
    np.savez(buffer, query=found.query + start, pool=found.pool + first, similarity=found.similarity)
    path = f"{task['folder']}/{task['key']}.npz"
    Store(task["root"]).write_bytes(path, buffer.getvalue())
    return {"pairs": len(found.query), "path": path, "root": task["root"]}


def best(parts: list[Neighbours], k: int) -> Neighbours:
    """The first ``k`` of each query among pairs that are each in one part only."""
    every = Neighbours.joined(parts)
    order = np.lexsort((every.pool, -every.similarity, every.query))
    query = every.query[order]
    kept = order[rank_in_groups(query) < k]
    return Neighbours(every.query[kept], every.pool[kept], every.similarity[kept])


def _read(summary: Summary) -> Neighbours:
    with np.load(io.BytesIO(Store(summary["root"]).read_bytes(summary["path"]))) as found:
        return Neighbours(found["query"], found["pool"], found["similarity"])
