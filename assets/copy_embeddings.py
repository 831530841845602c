"""Copy-detection embeddings: one unit vector an image that passed the filter.

The stage is ``dinov2_core/stages/copy_embeddings.py``; here are its asset and its checks.
"""

from __future__ import annotations

from assets.drift import batch_check
from assets.factory import stage_asset
from assets.gates import table_check

copy_embeddings = stage_asset("copy_embeddings")

copy_embeddings_check = table_check("copy_embeddings", "copy_embeddings")

copy_embeddings_batches_check = batch_check("copy_embeddings", "copy_embeddings")
