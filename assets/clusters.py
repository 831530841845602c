"""Clusters of the pool: one assignment an image.

The stage is ``dinov2_core/stages/clusters.py``; here are its asset and its checks.
"""

from __future__ import annotations

from assets.factory import stage_asset
from assets.gates import table_check

clusters = stage_asset("clusters")

clusters_check = table_check("clusters", "clusters")

centroids_check = table_check("clusters", "centroids")

tree_check = table_check("clusters", "tree")
