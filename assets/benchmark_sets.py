"""Evaluation sets: every image labelled where the set is, and findable in its shard.

The stage is ``dinov2_core/stages/benchmark_sets.py``; here are its asset and its checks.
"""

from __future__ import annotations

from assets.factory import stage_asset
from assets.gates import table_check

benchmark_sets = stage_asset("benchmark_sets")

labelled_check = table_check("benchmark_sets", "labelled")

copy_embeddings_check = table_check("benchmark_sets", "copy_embeddings")
