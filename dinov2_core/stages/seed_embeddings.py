"""The stage ``seed_embeddings``: the seeds through the same encoder as the pool."""

from __future__ import annotations

from typing import Any

from dinov2_core.stage import StageRun
from dinov2_core.stages import embeddings
from dinov2_core.stages.embeddings import Params, external

__all__ = ["Params", "external", "run"]


def run(run: StageRun) -> dict[str, Any]:
    """Embed every seed image, each once."""
    columns = ["image_id", "shard", "offset", "length"]
    seeds = {row["image_id"]: row for row in run.read("seed_sets", "labelled", columns).to_pylist()}
    return embeddings.embed(run, sorted(seeds.values(), key=lambda row: (row["shard"], row["offset"])))
