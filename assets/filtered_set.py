"""What the screen must deliver: one verdict an image, a reason with every refusal, scores in range.

The stage is ``dinov2_core/stages/filtered_set.py``; here are its asset and its checks.
"""

from __future__ import annotations

from assets.drift import batch_check
from assets.factory import stage_asset
from assets.gates import table_check

filtered_set = stage_asset("filtered_set")

verdicts_check = table_check("filtered_set", "verdicts")

verdicts_batches_check = batch_check("filtered_set", "verdicts")
