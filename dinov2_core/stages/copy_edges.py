"""The stage ``copy_edges``: pairs of alike images within a batch, and between it and every earlier batch.

An edge is a finding with scores; which edges make copies is decided by ``deduplicated_set``. Over all batches the
edges hold the ``k`` nearest of every image among all images, however these were cut into batches: see ``_both_ways``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from dinov2_core import stage, tables
from dinov2_core.curation import sharded_search
from dinov2_core.curation.image_index import ImageIndex
from dinov2_core.curation.matrix_files import MatrixFiles
from dinov2_core.curation.neighbours import Kind, Neighbours, NeighbourSearch, choose, measured_recall
from dinov2_core.curation.scratch import MEMORY
from dinov2_core.curation.vectors import PickedRows, Rows, StoredRows
from dinov2_core.stage import StageRun
from dinov2_core.stages import pool_tables
from dinov2_core.stages.pair_alignment import align_pairs

_PART = 1 << 20
"""Edges written at once."""


@dataclass(frozen=True)
class Params:
    """Defaults of the DINOv2 paper, appendix A.3; a lower ``threshold`` stores more candidates for ``align`` to judge.

    ``align``: also compare the pixels of each pair. ``search``: see ``neighbours.choose``; what is not exact is
    reported with its recall. ``memory``: bytes for arrays over the pool, which go to files beyond it. ``by_tasks``:
    have the engine's workers search, where the search is exact; the edges are the same.
    """

    k: int = 64
    threshold: float = 0.6
    align: bool = True
    search: Literal["auto", "exact", "ivf", "ivf-pq"] = "auto"
    device: str = stage.efficiency("cpu")
    memory: int = stage.efficiency(MEMORY)
    by_tasks: bool = stage.efficiency(False)


def run(run: StageRun) -> dict[str, Any]:
    """Search this batch's images among those of this batch and the earlier ones."""
    params: Params = run.params
    with pool_tables.scratch(params.memory) as scratch:
        index, matrix, _ = pool_tables.embeddings(run, "copy_embeddings", "copy_embeddings", scratch)
        fresh = _fresh(run, index)
        mine = np.flatnonzero(fresh)
        kind: Kind = choose(len(index), len(mine), 512) if params.search == "auto" else params.search
        search = pool_tables.search(matrix, scratch, kind=kind, device=params.device)
        others = np.flatnonzero(~fresh)
        near = _by_tasks(run, matrix) if params.by_tasks and kind == "exact" else _here(search, matrix, params)
        pairs, similarity = _both_ways(near, len(matrix), mine, others, params.k)
        alignment = np.zeros(0, np.float32)
        if params.align:
            places = pool_tables.locations(run, "filtered_set", "verdicts", index, scratch)
            ends = np.unique(pairs)
            rows = places.at(ends)
            first, second = (np.searchsorted(ends, pairs[:, side]) for side in (0, 1))
            alignment = align_pairs(run, [(rows[a], rows[b]) for a, b in zip(first, second, strict=True)])
        for part in range(max(1, -(-len(pairs) // _PART))):
            some = slice(part * _PART, (part + 1) * _PART)
            ends_text = [index.text(pairs[some, side]) for side in (0, 1)]
            aligned = pa.array(alignment[some]) if params.align else pa.nulls(len(pairs[some]), pa.float32())
            columns = [*ends_text, pa.array(similarity[some]), aligned]
            run.write_table("edges", pa.table(columns, schema=tables.EDGES), part)
        found: dict[str, Any] = {"images": len(mine), "searched": len(index), "edges": len(pairs), "search": kind}
        if kind != "exact" and len(mine):
            found["recall"] = round(measured_recall(search, PickedRows(matrix, mine), params.k), 4)
        return found


def _fresh(run: StageRun, index: ImageIndex) -> np.ndarray:
    """Which images of the index are this batch's and in no earlier one: bool [N]."""
    own, earlier = np.zeros(len(index), bool), np.zeros(len(index), bool)
    for partition in [m.partition for m in run.manifests("copy_embeddings")]:
        seen = own if partition == run.partition else earlier
        for block in pool_tables.blocks(run, "copy_embeddings", "copy_embeddings", ["image_id"], partition=partition):
            seen[index.find(pool_tables.ids(block))] = True
    return own & ~earlier


Near = Callable[[np.ndarray, np.ndarray | None, int], Iterable[Neighbours]]
"""``(positions of queries, positions of the pool or None for all, k)`` → pairs of places in these, block by block."""


def _here(search: NeighbourSearch, matrix: Rows, params: Params) -> Near:
    def near(queries: np.ndarray, pool: np.ndarray | None, k: int) -> Iterable[Neighbours]:
        own = search if pool is None else NeighbourSearch(PickedRows(matrix, pool), device=params.device)
        return own.stream(PickedRows(matrix, queries), k, params.threshold)

    return near


def _by_tasks(run: StageRun, matrix: StoredRows) -> Near:
    def files(name: str, at: np.ndarray | None) -> MatrixFiles:
        return MatrixFiles.write(run.store, run.scratch(name), matrix, at)

    def near(queries: np.ndarray, pool: np.ndarray | None, k: int) -> Iterable[Neighbours]:
        name = "all" if pool is None else "back"
        return sharded_search.search(
            run.map,
            run.scratch(f"tiles-{name}"),
            files(f"queries-{name}", queries),
            files(f"rows-{name}", pool),
            k=k,
            threshold=run.params.threshold,
            device=run.params.device,
            name=name,
        )

    return near


def _both_ways(near: Near, count: int, mine: np.ndarray, others: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of positions below ``count``, smaller first, int64 [P, 2], sorted and each once; and float32 [P] cosines.

    They hold the ``k`` nearest of each of ``mine`` among all, and whichever of ``mine`` may be among the ``k`` nearest
    of one of ``others``: a new image with fewer than ``k`` neighbours has named them all, and for those with more, the
    earlier images are searched too.
    """
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    crowded = []
    # One more neighbour than asked: every image is its own nearest.
    for part in near(mine, None, k + 1):
        query = mine[part.query]
        apart = query != part.pool
        found.append((query[apart], part.pool[apart], part.similarity[apart]))
        which, counts = np.unique(query[apart], return_counts=True)
        crowded.append(which[counts >= k])
    full = np.concatenate([np.zeros(0, np.int64), *crowded])
    if len(full) and len(others):
        found += [(others[part.query], full[part.pool], part.similarity) for part in near(others, full, k)]
    empty = np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32)
    a, b, similarity = (np.concatenate(parts) for parts in zip(empty, *found, strict=True))
    codes, first = np.unique(np.minimum(a, b) * count + np.maximum(a, b), return_index=True)
    return np.stack(np.divmod(codes, max(1, count)), axis=1), similarity[first]
