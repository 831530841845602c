"""Whether the packed training set shows evaluation images: counted anew from its own ids, whoever drew them.

Used by ``registered_model``. The rules by which copies are found are in ``curation/copy_rule.py``.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow.compute as pc

from dinov2_core.curation.image_index import ImageIndex
from dinov2_core.curation.scratch import Scratch
from dinov2_core.stage import StageRun
from dinov2_core.stages import pool_tables
from dinov2_core.stages.seed_leaks import leak_rule


def count(run: StageRun, memory: int) -> dict[str, int]:
    """Images of the training set by the reason why they leak, each image under the first that holds.

    ``identical``: an evaluation image itself. ``dropped``: an image that deduplication dropped as a leak. ``close``:
    one with an edge to an evaluation image that the leak rule of deduplication accepts.
    """
    with Scratch(memory) as scratch:
        packed = (pool_tables.ids(b) for b in pool_tables.blocks(run, "curated_lvd", "packed", ["image_id"]))
        index = ImageIndex.build(packed, pool_tables.rows(run, "curated_lvd", "packed"), scratch)
        reason = scratch.full(len(index), np.int8, 0)
        for code, ids in enumerate((_references(run), _dropped(run), _close(run)), start=1):
            for block in ids:
                at = index.find(block)
                at = at[at >= 0]
                reason[at] = np.where(reason[at] == 0, code, reason[at])
        found = np.bincount(reason, minlength=4).tolist()
    return {"identical": found[1], "dropped": found[2], "close": found[3]}


def _references(run: StageRun) -> Iterator[np.ndarray]:
    for block in pool_tables.blocks(run, "benchmark_sets", "copy_embeddings", ["image_id"]):
        yield pool_tables.ids(block)


def _dropped(run: StageRun) -> Iterator[np.ndarray]:
    for block in pool_tables.blocks(run, "deduplicated_set", "components", ["image_id", "reason"]):
        yield pool_tables.ids(block.filter(pc.starts_with(block.column("reason"), "leak of")))


def _close(run: StageRun) -> Iterator[np.ndarray]:
    rule = leak_rule(run)
    for block in pool_tables.blocks(run, "benchmark_edges", "benchmark_edges"):
        scores = [block.column(name).to_numpy(zero_copy_only=False) for name in ("similarity", "alignment")]
        yield pool_tables.ids(block)[rule.accepts(*(column.astype(np.float64) for column in scores))]
