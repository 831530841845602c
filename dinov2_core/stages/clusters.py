"""The stage ``clusters``: k-means over the deduplicated pool, flat or in levels, with every image's cluster.

The algorithms are in ``curation/clustering``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from dinov2_core import stage, tables
from dinov2_core.curation import sharded_kmeans, sharded_search, vectors
from dinov2_core.curation.clustering import POINTS_PER_CLUSTER, Level, assigned, hierarchical_kmeans, kmeans
from dinov2_core.curation.image_index import ImageIndex
from dinov2_core.curation.matrix_files import MatrixFiles
from dinov2_core.curation.scratch import MEMORY, Scratch
from dinov2_core.curation.vectors import StoredRows
from dinov2_core.errors import UserError
from dinov2_core.stage import StageRun
from dinov2_core.stages import pool_tables
from dinov2_core.storage import Store


@dataclass(frozen=True)
class Params:
    """``clusters``: as in the DINOv2 paper, appendix A.4; no more than a third of the pool's images are made.

    ``levels``: numbers of clusters above the first, finest first, for hierarchical balanced sampling; with them the
    first level is fitted in ``rounds`` of resampling too. ``memory``: bytes for arrays over the pool, which go to
    files beyond it. ``by_tasks``: have the engine's workers assign images; the clusters are the same. ``fit_by_tasks``:
    have them fit too, by another k-means, so it is another version; for flat clusters.
    """

    clusters: int = 100_000
    iterations: int = 20
    seed: int = 0
    levels: tuple[int, ...] = ()
    rounds: int = 10
    nearest: int = 3
    memory: int = stage.efficiency(MEMORY)
    by_tasks: bool = stage.efficiency(False)
    fit_by_tasks: bool = stage.efficiency(False)


def external(store: Store, partition: str, params: Params) -> dict[str, str] | None:
    """What fits the centroids, where it is not Faiss."""
    return {"kmeans": "tasks"} if params.fit_by_tasks else None


def run(run: StageRun) -> dict[str, Any]:
    """Cluster the kept images of all batches."""
    params: Params = run.params
    with pool_tables.scratch(params.memory) as scratch:
        index, matrix = pool(run, scratch)
        count = max(1, min(params.clusters, len(index) // 3))
        if params.fit_by_tasks and params.levels:
            raise UserError("levels are fitted by one machine", where=run.where, todo="unset fit_by_tasks or levels")
        files = None
        if params.by_tasks or params.fit_by_tasks:
            files = MatrixFiles.write(run.store, run.scratch("rows"), matrix)
        if params.levels:
            levels = hierarchical_kmeans(
                matrix,
                (count, *params.levels),
                seed=params.seed,
                rounds=params.rounds,
                nearest=params.nearest,
                iterations=params.iterations,
                scratch=scratch,
            )
            centroids = levels[0].centroids
        elif files is not None and params.fit_by_tasks:
            levels = []
            sample = replace(files, rows=min(len(files), POINTS_PER_CLUSTER * count))
            folder = run.scratch("kmeans")
            centroids = sharded_kmeans.kmeans(
                run.map, run.store, folder, sample, count, seed=params.seed, iterations=params.iterations
            )
        else:
            centroids = kmeans(matrix, count, seed=params.seed, iterations=params.iterations, scratch=scratch)
            levels = []
        stored = vectors.to_table([str(i) for i in range(len(centroids))], centroids)
        run.write_table("centroids", stored)
        if levels:
            run.write_table("tree", _tree(levels))
        sizes = np.zeros(len(centroids), np.int64)
        total = 0.0
        # Assigned to the centroids as they are stored, so that whoever reads them assigns alike.
        parts = assigned(matrix, vectors.from_table(stored)[1], block=pool_tables.BLOCK)
        if files is not None and params.by_tasks:
            parts = _assigned_by_tasks(run, files, vectors.stored(stored))
        for part, (start, cluster, similarity) in enumerate(parts):
            ids = index.text(slice(start, start + len(cluster)))
            columns = [ids, pa.array(cluster), pa.array(similarity)]
            run.write_table("clusters", pa.table(columns, schema=tables.CLUSTERS), part)
            sizes += np.bincount(cluster, minlength=len(sizes))
            total += float(similarity.astype(np.float64).sum())
        return {
            "images": len(index),
            "clusters": len(centroids),
            "empty_clusters": int((sizes == 0).sum()),
            "largest_cluster": int(sizes.max()),
            "median_cluster": int(np.median(sizes)),
            "levels": [len(level.centroids) for level in levels],
            "mean_similarity": round(total / len(index), 4),
        }


def pool(run: StageRun, scratch: Scratch) -> tuple[ImageIndex, StoredRows]:
    """The images that ``deduplicated_set`` keeps, and their embeddings by position.

    Raises:
        UserError: nothing is kept, or images have no embedding.
    """
    index = pool_tables.kept_index(run, "deduplicated_set", "components", scratch)
    if not len(index):
        raise UserError("the deduplicated set is empty", where=run.where, todo="crawl more, or look at its verdicts")
    _, matrix, missing = pool_tables.embeddings(run, "embeddings", "embeddings", scratch, index)
    if missing:
        raise UserError(
            f"{missing} images have no embedding", where=run.where, todo="materialise embeddings for all batches"
        )
    return index, matrix


def _assigned_by_tasks(
    run: StageRun, files: MatrixFiles, centroids: np.ndarray
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """As ``clustering.assigned``: float16 [K, D] are the centroids as they are stored."""
    near = sharded_search.search(
        run.map,
        run.scratch("assigned"),
        files,
        MatrixFiles.write(run.store, run.scratch("centroids"), centroids),
        k=1,
        query_block=pool_tables.BLOCK,
        name="assign",
    )
    for found in near:
        yield int(found.query[0]), found.pool.astype(np.int32), found.similarity


def _tree(levels: list[Level]) -> pa.Table:
    rows = [
        {"level": depth, "cluster": child, "parent": parent}
        for depth, level in enumerate(levels[1:])
        for child, parent in enumerate(level.members.tolist())
    ]
    return tables.from_rows(rows, tables.CLUSTER_TREE)
