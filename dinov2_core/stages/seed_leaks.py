"""Which seeds are copies of evaluation images: what enters the curated set as it is must not leak either.

Seeds that the pool holds were judged there. The others are embedded here with the copy-detection network of the
evaluation sets and judged by the rule that ``deduplicated_set`` used for the pool's leaks. Used by ``curated_lvd``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dinov2_core.curation import vectors
from dinov2_core.curation.copy_rule import CopyRule
from dinov2_core.curation.neighbours import NeighbourSearch
from dinov2_core.stage import StageRun
from dinov2_core.stages.copy_embeddings import embed
from dinov2_core.stages.pair_alignment import align_pairs

PAPER = 0.45
_NEIGHBOURS = 64
"""Evaluation images that one seed is compared with by pixels, at most; one is enough to leave it out."""
_PER_TASK = 500


def leaking(run: StageRun, seeds: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Whether each of ``seeds`` (``image_id``, ``shard``, ``offset``, ``length``) shows what an evaluation image shows:
    bool [N]. Their embeddings are written as the table ``copy_embeddings``."""
    lost = np.zeros(len(seeds), bool)
    names, reference = vectors.from_table(run.read("benchmark_sets", "copy_embeddings"))
    if not len(seeds) or not len(names):
        return lost
    rule = leak_rule(run)
    (benchmarks,) = run.manifests("benchmark_sets")
    found = NeighbourSearch(reference).above(
        _embedded(run, seeds, str(benchmarks.params["model"]), int(benchmarks.params["side"])),
        min(rule.similarity, rule.aligned_similarity),
        _NEIGHBOURS,
    )
    alignment = np.full(len(found.query), np.nan, np.float32)
    if rule.aligned_similarity < 1:
        places = {row["image_id"]: row for row in run.read("benchmark_sets", "labelled").to_pylist()}
        pairs = zip(found.query.tolist(), found.pool.tolist(), strict=True)
        alignment = align_pairs(run, [(seeds[i], places[names[j]]) for i, j in pairs])
    lost[found.query[rule.accepts(found.similarity, alignment)]] = True
    return lost


def leak_rule(run: StageRun) -> CopyRule:
    """The rule by which ``deduplicated_set`` found the pool's leaks; it may have been fitted to the pool."""
    used = [m.counts["benchmark_rule"] for m in run.manifests("deduplicated_set") if "benchmark_rule" in m.counts]
    return CopyRule(**used[0]) if used else CopyRule(PAPER)


def _embedded(run: StageRun, seeds: Sequence[Mapping[str, Any]], model: str, side: int) -> np.ndarray:
    """float32 [N, 512] of unit length."""
    columns = ("image_id", "shard", "offset", "length")
    tasks = {
        f"seeds-{start // _PER_TASK:05d}": {
            "images": [{c: row[c] for c in columns} for row in seeds[start : start + _PER_TASK]],
            "model": model,
            "side": side,
        }
        for start in range(0, len(seeds), _PER_TASK)
    }
    done = run.map(embed, tasks, label="seeds", unit=lambda s: int(s["images"]), total=len(seeds))
    # Read as they were stored: float16, as the evaluation images' were.
    files = [record["path"] for summary in done for record in summary["files"]]
    return np.concatenate([vectors.from_table(run.store.read_table(path))[1] for path in files])
