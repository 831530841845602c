"""Benchmark edges: pool image, benchmark image, cosine.

The stage is ``dinov2_core/stages/benchmark_edges.py``; here are its asset and its checks.
"""

from __future__ import annotations

from assets.factory import stage_asset
from assets.gates import table_check

benchmark_edges = stage_asset("benchmark_edges")

benchmark_edges_check = table_check("benchmark_edges", "benchmark_edges")
