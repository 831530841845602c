"""Evaluation: every number with its interval, beside its controls.

The stage is ``dinov2_core/stages/evaluation_metrics.py``; here are its asset and what must hold of its tables.
"""

from __future__ import annotations

from assets.factory import stage_asset
from assets.gates import error, table_check

evaluation_metrics = stage_asset("evaluation_metrics")

metrics_check = table_check(
    "evaluation_metrics",
    "metrics",
    [
        error("ExpectTableRowCountToBeBetween", min_value=1),
        error("ExpectColumnValuesToNotBeNull", column="value"),
        error("ExpectColumnValuesToBeBetween", column="value", min_value=-1, max_value=1),
        error("ExpectColumnPairValuesAToBeGreaterThanB", column_A="high", column_B="low", or_equal=True),
        error("ExpectColumnValuesToBeBetween", column="count", min_value=1),
    ],
)
