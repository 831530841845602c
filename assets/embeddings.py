"""Retrieval embeddings: one unit vector an image that passed the filter.

The stage is ``dinov2_core/stages/embeddings.py``; here are its asset and what must hold of its tables.
"""

from __future__ import annotations

from assets.factory import stage_asset
from assets.gates import error, table_check

embeddings = stage_asset("embeddings", pool="accelerator")

embeddings_check = table_check(
    "embeddings",
    "embeddings",
    [
        error("ExpectColumnValuesToNotBeNull", column="image_id"),
        error("ExpectColumnValuesToBeUnique", column="image_id"),
        error("ExpectColumnValuesToBeBetween", column="norm", min_value=0.99, max_value=1.01),
    ],
)
