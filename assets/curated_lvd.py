"""The curated set: every draw with its origin, the composition, and the packed training images.

The stage is ``dinov2_core/stages/curated_lvd.py``; here are its asset and what must hold of its tables.
"""

from __future__ import annotations

from assets.factory import stage_asset
from assets.gates import error, table_check

curated_lvd = stage_asset("curated_lvd")

selections_check = table_check(
    "curated_lvd",
    "selections",
    [
        error("ExpectTableRowCountToBeBetween", min_value=1),
        error("ExpectColumnValuesToNotBeNull", column="image_id"),
        error("ExpectColumnValuesToBeInSet", column="mode", value_set=["as is", "sample", "cluster", "balanced"]),
    ],
)

packed_check = table_check(
    "curated_lvd",
    "packed",
    [
        error("ExpectTableRowCountToBeBetween", min_value=1),
        error("ExpectColumnValuesToBeUnique", column="image_id"),
        error("ExpectColumnValuesToNotBeNull", column="shard"),
    ],
)

composition_check = table_check(
    "curated_lvd",
    "composition",
    [
        error("ExpectColumnPairValuesAToBeGreaterThanB", column_A="retrieved", column_B="final", or_equal=True),
        error("ExpectColumnValuesToBeBetween", column="final", min_value=0),
    ],
)
