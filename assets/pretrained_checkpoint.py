"""Pretraining, tracked: a run continues where a killed one stopped.

The stage is ``dinov2_core/stages/pretrained_checkpoint.py``; here are its asset and its checks.
"""

from __future__ import annotations

from assets.factory import ACCELERATOR, stage_asset
from assets.gates import table_check
from assets.training import tracked
from assets.training_gates import training_check

pretrained_checkpoint = stage_asset("pretrained_checkpoint", watch=tracked, pool=ACCELERATOR)

history_check = table_check("pretrained_checkpoint", "history")

health_check = training_check("pretrained_checkpoint")
