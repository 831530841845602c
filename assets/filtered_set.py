"""What the screen must deliver: one verdict an image, a reason with every refusal, scores in range.

The stage is ``dinov2_core/stages/filtered_set.py``; here are its asset and what must hold of its tables.
"""

from __future__ import annotations

from assets.factory import stage_asset
from assets.gates import error, table_check, warn

filtered_set = stage_asset("filtered_set")

verdicts_check = table_check(
    "filtered_set",
    "verdicts",
    [
        error("ExpectTableRowCountToBeBetween", min_value=1),
        error("ExpectColumnValuesToNotBeNull", column="image_id"),
        error("ExpectCompoundColumnsToBeUnique", column_list=["image_id", "shard"]),
        error("ExpectColumnValuesToNotBeNull", column="keep"),
        error("ExpectColumnValuesToBeBetween", column="nsfw", min_value=0, max_value=1),
        error("ExpectColumnValuesToNotBeNull", column="reason"),
        warn("ExpectColumnMeanToBeBetween", column="nsfw", max_value=0.3),
    ],
)
