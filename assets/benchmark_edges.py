"""Benchmark edges: pool image, benchmark image, cosine.

The stage is ``dinov2_core/stages/benchmark_edges.py``; here are its asset and what must hold of its tables.
"""

from __future__ import annotations

from assets.factory import stage_asset
from assets.gates import error, table_check

benchmark_edges = stage_asset("benchmark_edges")

benchmark_edges_check = table_check(
    "benchmark_edges",
    "benchmark_edges",
    [
        error("ExpectColumnValuesToNotBeNull", column="image_id"),
        error("ExpectColumnValuesToNotBeNull", column="benchmark_id"),
        error("ExpectColumnValuesToBeBetween", column="similarity", min_value=0, max_value=1.01),
    ],
)
