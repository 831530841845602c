"""Retrieval embeddings of the seeds, by the encoder that embeds the pool.

The stage is ``dinov2_core/stages/seed_embeddings.py``; here are its asset and its checks.
"""

from __future__ import annotations

from assets import champion
from assets.factory import ACCELERATOR, stage_asset
from assets.gates import table_check

seed_embeddings = stage_asset("seed_embeddings", pool=ACCELERATOR, external={champion.NAME: champion.adopted_version})

embeddings_check = table_check("seed_embeddings", "embeddings")
