"""Retrieval embeddings: one unit vector an image that passed the filter.

The stage is ``dinov2_core/stages/embeddings.py``; here are its asset and its checks.
"""

from __future__ import annotations

from assets import champion
from assets.drift import batch_check
from assets.factory import ACCELERATOR, stage_asset
from assets.gates import table_check

embeddings = stage_asset("embeddings", pool=ACCELERATOR, external={champion.NAME: champion.adopted_version})

embeddings_check = table_check("embeddings", "embeddings")

embeddings_batches_check = batch_check("embeddings", "embeddings")
