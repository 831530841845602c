"""What a crawl must deliver: a fate for every image reference, and images whose rows are complete.

The stage is ``dinov2_core/stages/raw_crawl.py``; here are its asset and what must hold of its tables.
"""

from __future__ import annotations

from assets.factory import stage_asset
from assets.gates import error, table_check, warn

raw_crawl = stage_asset("raw_crawl")

images_check = table_check(
    "raw_crawl",
    "images",
    [
        error("ExpectTableRowCountToBeBetween", min_value=1),
        error("ExpectColumnValuesToNotBeNull", column="url"),
        error("ExpectColumnValuesToBeInSet", column="status", value_set=["stored", "duplicate", "refused", "failed"]),
        error("ExpectColumnValuesToMatchRegex", column="image_id", regex="^[0-9a-f]{64}$"),
        error("ExpectColumnValuesToBeBetween", column="width", min_value=1, max_value=100_000),
        error("ExpectColumnValuesToBeBetween", column="bytes", min_value=1),
        warn("ExpectColumnProportionOfUniqueValuesToBeBetween", column="url", min_value=0.5),
    ],
)
