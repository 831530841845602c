"""The stage ``copy_edges``: pairs of alike images within a batch, and between it and every earlier batch.

An edge is a finding with scores; which edges make copies is decided by ``deduplicated_set``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from dinov2_core import tables
from dinov2_core.curation import vectors
from dinov2_core.curation.neighbours import NeighbourSearch
from dinov2_core.stage import StageRun
from dinov2_core.stages.copy_embeddings import kept_images
from dinov2_core.stages.pair_alignment import align_pairs


@dataclass(frozen=True)
class Params:
    """Defaults of the DINOv2 paper, appendix A.3; a lower ``threshold`` stores more candidates for ``align`` to judge.

    ``align``: also compare the pixels of each pair.
    """

    k: int = 64
    threshold: float = 0.6
    align: bool = True


def run(run: StageRun) -> dict[str, Any]:
    """Search this batch's images among those of this batch and the earlier ones."""
    params: Params = run.params
    ids, matrix = vectors.sorted_unique(*vectors.from_table(run.read("copy_embeddings", "copy_embeddings")))
    own, _ = vectors.from_table(run.read("copy_embeddings", "copy_embeddings", partition=run.partition))
    mine = np.searchsorted(ids, np.unique(own.astype(str))) if len(own) else np.zeros(0, np.int64)
    # One more neighbour than asked: every image is its own nearest.
    found = NeighbourSearch(matrix).above(matrix[mine], params.threshold, params.k + 1)
    query = mine[found.query]
    apart = query != found.pool
    low, high = np.minimum(query, found.pool)[apart], np.maximum(query, found.pool)[apart]
    pairs, first = np.unique(np.stack([low, high], axis=1), axis=0, return_index=True)
    similarity = found.similarity[apart][first]
    locations = {row["image_id"]: row for row in kept_images(run)} if params.align and len(pairs) else {}
    a, b = ids[pairs[:, 0]].tolist(), ids[pairs[:, 1]].tolist()
    alignment = (
        align_pairs(run, [(locations[x], locations[y]) for x, y in zip(a, b, strict=True)])
        if params.align
        else [None] * len(a)
    )
    columns = [a, b, similarity, alignment]
    arrays = [pa.array(c, type=t) for c, t in zip(columns, tables.EDGES.types, strict=True)]
    run.write_table("edges", pa.table(arrays, schema=tables.EDGES))
    return {"images": len(mine), "searched": len(ids), "edges": len(pairs)}
