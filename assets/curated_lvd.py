"""The curated set: every draw with its origin, the composition, and the packed training images.

The stage is ``dinov2_core/stages/curated_lvd.py``; here are its asset and its checks.
"""

from __future__ import annotations

from assets.factory import stage_asset
from assets.gates import table_check

curated_lvd = stage_asset("curated_lvd")

selections_check = table_check("curated_lvd", "selections")

packed_check = table_check("curated_lvd", "packed")

composition_check = table_check("curated_lvd", "composition")
