"""Distillation of the smaller students, tracked.

The stage is ``dinov2_core/stages/distilled_checkpoints.py``; here are its asset and what must hold of its tables.
"""

from __future__ import annotations

from assets.factory import stage_asset
from assets.gates import error, table_check
from assets.training import tracked

distilled_checkpoints = stage_asset("distilled_checkpoints", watch=tracked, pool="accelerator")

history_check = table_check(
    "distilled_checkpoints",
    "history",
    [
        error("ExpectTableRowCountToBeBetween", min_value=1),
        error("ExpectColumnValuesToNotBeNull", column="value"),
        error("ExpectColumnValuesToBeBetween", column="value", min_value=-1e6, max_value=1e6),
    ],
)
