"""The stage ``benchmark_edges``: images of a batch that are alike to an image of an evaluation set.

Whether an edge is a leak is decided by ``deduplicated_set``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from dinov2_core import stage, tables
from dinov2_core.curation import vectors
from dinov2_core.curation.scratch import MEMORY
from dinov2_core.errors import UserError
from dinov2_core.stage import StageRun
from dinov2_core.stages import pool_tables
from dinov2_core.stages.pair_alignment import align_pairs


@dataclass(frozen=True)
class Params:
    """Defaults of the DINOv2 paper, appendix A.3. ``align``: also compare the pixels of each pair.

    ``memory``: bytes for arrays over the pool, which go to files beyond it.
    """

    k: int = 64
    threshold: float = 0.45
    align: bool = True
    device: str = stage.efficiency("cpu")
    memory: int = stage.efficiency(MEMORY)


def run(run: StageRun) -> dict[str, Any]:
    """Search this batch's images among the reference images of the evaluation sets."""
    params: Params = run.params
    _same_embedding(run)
    names, reference = vectors.sorted_unique(*vectors.from_table(run.read("benchmark_sets", "copy_embeddings")))
    labelled = {row["image_id"]: row for row in run.read("benchmark_sets", "labelled").to_pylist()}
    if missing := [name for name in names.tolist() if name not in labelled]:
        raise UserError(
            f"{len(missing)} embedded images are in no evaluation set, {missing[0][:12]}… among them",
            where=run.where,
            todo="materialise benchmark_sets again",
        )
    with pool_tables.scratch(params.memory) as scratch:
        index, matrix, _ = pool_tables.embeddings(run, "copy_embeddings", "copy_embeddings", scratch)
        # Searched from the references' side: k bounds how many pool images one reference may claim, not the other way.
        search = pool_tables.search(matrix, scratch, device=params.device)
        found = search.above(reference, params.threshold, params.k)
        order = np.lexsort((found.query, found.pool))
        pool, similarity = found.pool[order], found.similarity[order]
        benchmark_ids = names[found.query[order]].tolist()
        alignment: Any = [None] * len(pool)
        if params.align:
            places = pool_tables.locations(run, "filtered_set", "verdicts", index, scratch)
            here, which = np.unique(pool, return_inverse=True)
            rows = places.at(here)
            alignment = align_pairs(run, [(rows[i], labelled[y]) for i, y in zip(which, benchmark_ids, strict=True)])
        images = index.text(pool)
        sets = [labelled[name]["dataset"] for name in benchmark_ids]
        columns = [images, sets, benchmark_ids, similarity, alignment]
        arrays = [pa.array(c, type=t) for c, t in zip(columns, tables.BENCHMARK_EDGES.types, strict=True)]
        run.write_table("benchmark_edges", pa.table(arrays, schema=tables.BENCHMARK_EDGES))
        return {"images": len(index), "references": len(names), "edges": len(pool)}


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
