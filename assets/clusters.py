"""Clusters of the pool: one assignment an image.

The stage is ``dinov2_core/stages/clusters.py``; here are its asset and what must hold of its tables.
"""

from __future__ import annotations

from assets.factory import stage_asset
from assets.gates import error, table_check

clusters = stage_asset("clusters")

clusters_check = table_check(
    "clusters",
    "clusters",
    [
        error("ExpectColumnValuesToBeUnique", column="image_id"),
        error("ExpectColumnValuesToBeBetween", column="cluster", min_value=0),
        error("ExpectColumnValuesToBeBetween", column="similarity", min_value=-1.01, max_value=1.01),
    ],
)

centroids_check = table_check(
    "clusters",
    "centroids",
    [
        error("ExpectTableRowCountToBeBetween", min_value=1),
        error("ExpectColumnValuesToBeUnique", column="image_id"),
        error("ExpectColumnValuesToBeBetween", column="norm", min_value=0, max_value=1.01),
    ],
)
