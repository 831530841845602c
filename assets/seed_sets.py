"""Seed sets: named, packed, findable.

The stage is ``dinov2_core/stages/seed_sets.py``; here are its asset and its checks.
"""

from __future__ import annotations

from assets.factory import stage_asset
from assets.gates import table_check

seed_sets = stage_asset("seed_sets")

labelled_check = table_check("seed_sets", "labelled")
