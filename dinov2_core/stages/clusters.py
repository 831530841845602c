"""The stage ``clusters``: k-means over the deduplicated pool, flat or in levels, with every image's cluster.

The algorithms are in ``curation/clustering``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from dinov2_core import tables
from dinov2_core.curation import vectors
from dinov2_core.curation.clustering import Level, assign, hierarchical_kmeans, kmeans
from dinov2_core.errors import UserError
from dinov2_core.stage import StageRun


@dataclass(frozen=True)
class Params:
    """``clusters``: as in the DINOv2 paper, appendix A.4; no more than a third of the pool's images are made.

    ``levels``: numbers of clusters above the first, finest first, for hierarchical balanced sampling; with them the
    first level is fitted in ``rounds`` of resampling too.
    """

    clusters: int = 100_000
    iterations: int = 20
    seed: int = 0
    levels: tuple[int, ...] = ()
    rounds: int = 10
    nearest: int = 3


def run(run: StageRun) -> dict[str, Any]:
    """Cluster the kept images of all batches."""
    params: Params = run.params
    ids, matrix = pool(run)
    count = max(1, min(params.clusters, len(ids) // 3))
    if params.levels:
        levels = hierarchical_kmeans(
            matrix,
            (count, *params.levels),
            seed=params.seed,
            rounds=params.rounds,
            nearest=params.nearest,
            iterations=params.iterations,
        )
        centroids = levels[0].centroids
    else:
        centroids = kmeans(matrix, count, seed=params.seed, iterations=params.iterations)
        levels = []
    stored = vectors.to_table([str(i) for i in range(len(centroids))], centroids)
    # Assigned to the centroids as they are stored, so that whoever reads them assigns alike.
    cluster, similarity = assign(matrix, vectors.from_table(stored)[1])
    columns = [pa.array(ids.tolist(), pa.string()), pa.array(cluster), pa.array(similarity)]
    run.write_table("clusters", pa.table(columns, schema=tables.CLUSTERS))
    run.write_table("centroids", stored)
    if levels:
        run.write_table("tree", _tree(levels))
    sizes = np.bincount(cluster, minlength=len(centroids))
    return {
        "images": len(ids),
        "clusters": len(centroids),
        "empty_clusters": int((sizes == 0).sum()),
        "largest_cluster": int(sizes.max()),
        "median_cluster": int(np.median(sizes)),
        "levels": [len(level.centroids) for level in levels],
        "mean_similarity": round(float(similarity.astype(np.float64).mean()), 4),
    }


def pool(run: StageRun) -> tuple[np.ndarray, np.ndarray]:
    """Ids [N] (sorted) and embeddings float32 [N, D] of the images that ``deduplicated_set`` keeps.

    Raises:
        UserError: nothing is kept, or images have no embedding.
    """
    kept = run.read("deduplicated_set", "components", ["image_id", "keep"]).to_pylist()
    wanted = np.array(sorted(row["image_id"] for row in kept if row["keep"]), dtype=str)
    if not len(wanted):
        raise UserError("the deduplicated set is empty", where=run.where, todo="crawl more, or look at its verdicts")
    ids, matrix = vectors.sorted_unique(*vectors.from_table(run.read("embeddings", "embeddings")))
    places = np.searchsorted(ids, wanted).clip(0, max(0, len(ids) - 1))
    missing = len(wanted) if not len(ids) else int((ids[places] != wanted).sum())
    if missing:
        raise UserError(
            f"{missing} images have no embedding", where=run.where, todo="materialise embeddings for all batches"
        )
    return wanted, matrix[places]


def _tree(levels: list[Level]) -> pa.Table:
    rows = [
        {"level": depth, "cluster": child, "parent": parent}
        for depth, level in enumerate(levels[1:])
        for child, parent in enumerate(level.members.tolist())
    ]
    return tables.from_rows(rows, tables.CLUSTER_TREE)
