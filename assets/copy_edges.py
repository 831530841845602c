"""Copy edges: ordered pairs with a cosine above the search threshold.

The stage is ``dinov2_core/stages/copy_edges.py``; here are its asset and its checks.
"""

from __future__ import annotations

from assets.factory import stage_asset
from assets.gates import table_check

copy_edges = stage_asset("copy_edges")

edges_check = table_check("copy_edges", "edges")
