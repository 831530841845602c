"""Pretraining, tracked: a run continues where a killed one stopped.

The stage is ``dinov2_core/stages/pretrained_checkpoint.py``; here are its asset and what must hold of its tables.
"""

from __future__ import annotations

from assets.factory import stage_asset
from assets.gates import error, table_check
from assets.training import tracked

pretrained_checkpoint = stage_asset("pretrained_checkpoint", watch=tracked, pool="accelerator")

history_check = table_check(
    "pretrained_checkpoint",
    "history",
    [
        error("ExpectTableRowCountToBeBetween", min_value=1),
        error("ExpectColumnValuesToNotBeNull", column="value"),
        error("ExpectColumnValuesToBeBetween", column="value", min_value=-1e6, max_value=1e6),
    ],
)
