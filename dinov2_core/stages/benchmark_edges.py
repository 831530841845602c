"""The stage ``benchmark_edges``: images of a batch that are alike to an image of an evaluation set.

Whether an edge is a leak is decided by ``deduplicated_set``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from dinov2_core import tables
from dinov2_core.curation import vectors
from dinov2_core.curation.neighbours import NeighbourSearch
from dinov2_core.errors import UserError
from dinov2_core.stage import StageRun
from dinov2_core.stages.copy_embeddings import kept_images
from dinov2_core.stages.pair_alignment import align_pairs


@dataclass(frozen=True)
class Params:
    """Defaults of the DINOv2 paper, appendix A.3. ``align``: also compare the pixels of each pair."""

    k: int = 64
    threshold: float = 0.45
    align: bool = True


def run(run: StageRun) -> dict[str, Any]:
    """Search this batch's images among the reference images of the evaluation sets."""
    params: Params = run.params
    _same_embedding(run)
    ids, matrix = vectors.sorted_unique(*vectors.from_table(run.read("copy_embeddings", "copy_embeddings")))
    names, reference = vectors.sorted_unique(*vectors.from_table(run.read("benchmark_sets", "copy_embeddings")))
    labelled = {row["image_id"]: row for row in run.read("benchmark_sets", "labelled").to_pylist()}
    if missing := [name for name in names.tolist() if name not in labelled]:
        raise UserError(
            f"{len(missing)} embedded images are in no evaluation set, {missing[0][:12]}… among them",
            where=run.where,
            todo="materialise benchmark_sets again",
        )
    # Searched from the references' side: k bounds how many pool images one reference may claim, not the other way.
    found = NeighbourSearch(matrix).above(reference, params.threshold, params.k)
    order = np.lexsort((found.query, found.pool))
    images, benchmark_ids = ids[found.pool[order]].tolist(), names[found.query[order]].tolist()
    locations = {row["image_id"]: row for row in kept_images(run)} if params.align and images else {}
    alignment = (
        align_pairs(run, [(locations[x], labelled[y]) for x, y in zip(images, benchmark_ids, strict=True)])
        if params.align
        else [None] * len(images)
    )
    sets = [labelled[name]["dataset"] for name in benchmark_ids]
    columns = [images, sets, benchmark_ids, found.similarity[order], alignment]
    arrays = [pa.array(c, type=t) for c, t in zip(columns, tables.BENCHMARK_EDGES.types, strict=True)]
    run.write_table("benchmark_edges", pa.table(arrays, schema=tables.BENCHMARK_EDGES))
    return {"images": len(ids), "references": len(names), "edges": len(images)}


def _same_embedding(run: StageRun) -> None:
    """Vectors of two models, or of one at two sizes, lie in different spaces: their cosines mean nothing."""
    (pool,), (reference,) = run.manifests("copy_embeddings"), run.manifests("benchmark_sets")
    for name in ("model", "side"):
        one, two = pool.params[name], reference.params[name]
        if one != two:
            raise UserError(
                f"the pool is embedded with {name} {one}, the evaluation sets with {two}",
                where=run.where,
                todo=f"give copy_embeddings and benchmark_sets the same {name}",
            )
