"""The encoder of the first round: its training must have stayed finite.

The stage is ``dinov2_core/stages/preliminary_encoder.py``; here are its asset and its checks.
"""

from __future__ import annotations

from assets.factory import ACCELERATOR, stage_asset
from assets.gates import table_check
from assets.training import tracked
from assets.training_gates import training_check

preliminary_encoder = stage_asset("preliminary_encoder", watch=tracked, pool=ACCELERATOR)

history_check = table_check("preliminary_encoder", "history")

health_check = training_check("preliminary_encoder")
