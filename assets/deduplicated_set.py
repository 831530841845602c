"""Components: one row an image, no more than one kept a component, a reason with every drop.

The stage is ``dinov2_core/stages/deduplicated_set.py``; here are its asset and its checks.
"""

from __future__ import annotations

from assets.factory import stage_asset
from assets.gates import table_check

deduplicated_set = stage_asset("deduplicated_set")

components_check = table_check("deduplicated_set", "components")
