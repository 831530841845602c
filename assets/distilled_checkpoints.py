"""Distillation of the smaller students, tracked.

The stage is ``dinov2_core/stages/distilled_checkpoints.py``; here are its asset and its checks.
"""

from __future__ import annotations

from assets.factory import ACCELERATOR, stage_asset
from assets.gates import table_check
from assets.training import tracked
from assets.training_gates import training_check

distilled_checkpoints = stage_asset("distilled_checkpoints", watch=tracked, pool=ACCELERATOR)

history_check = table_check("distilled_checkpoints", "history")

health_check = training_check("distilled_checkpoints")

health_check = training_check("distilled_checkpoints")
