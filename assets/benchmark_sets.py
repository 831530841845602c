"""Evaluation sets: every image labelled where the set is, and findable in its shard.

The stage is ``dinov2_core/stages/benchmark_sets.py``; here are its asset and what must hold of its tables.
"""

from __future__ import annotations

from assets.factory import stage_asset
from assets.gates import error, table_check, warn

benchmark_sets = stage_asset("benchmark_sets")

labelled_check = table_check(
    "benchmark_sets",
    "labelled",
    [
        error("ExpectColumnValuesToNotBeNull", column="image_id"),
        error("ExpectColumnValuesToNotBeNull", column="split"),
        error("ExpectColumnValuesToNotBeNull", column="shard"),
        error("ExpectCompoundColumnsToBeUnique", column_list=["dataset", "split", "key"]),
        warn("ExpectColumnValuesToNotBeNull", column="label"),
    ],
)

copy_embeddings_check = table_check(
    "benchmark_sets",
    "copy_embeddings",
    [
        error("ExpectColumnValuesToNotBeNull", column="image_id"),
        error("ExpectColumnValuesToBeUnique", column="image_id"),
        error("ExpectColumnValuesToBeBetween", column="norm", min_value=0.99, max_value=1.01),
    ],
)
