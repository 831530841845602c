"""Seed sets: named, packed, findable.

The stage is ``dinov2_core/stages/seed_sets.py``; here are its asset and what must hold of its tables.
"""

from __future__ import annotations

from assets.factory import stage_asset
from assets.gates import error, table_check

seed_sets = stage_asset("seed_sets")

labelled_check = table_check(
    "seed_sets",
    "labelled",
    [
        error("ExpectTableRowCountToBeBetween", min_value=1),
        error("ExpectColumnValuesToNotBeNull", column="image_id"),
        error("ExpectColumnValuesToNotBeNull", column="dataset"),
        error("ExpectColumnValuesToNotBeNull", column="shard"),
    ],
)
