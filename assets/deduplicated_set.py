"""Components: one row an image, no more than one kept a component, a reason with every drop.

The stage is ``dinov2_core/stages/deduplicated_set.py``; here are its asset and what must hold of its tables.
"""

from __future__ import annotations

from assets.factory import stage_asset
from assets.gates import error, table_check, warn

deduplicated_set = stage_asset("deduplicated_set")

components_check = table_check(
    "deduplicated_set",
    "components",
    [
        error("ExpectTableRowCountToBeBetween", min_value=1),
        error("ExpectColumnValuesToBeUnique", column="image_id"),
        error("ExpectColumnValuesToNotBeNull", column="component"),
        error("ExpectColumnValuesToBeBetween", column="size", min_value=1),
        # A component that chains much of the pool together means a threshold that does not fit these images.
        warn("ExpectColumnMaxToBeBetween", column="size", max_value=500),
    ],
)
