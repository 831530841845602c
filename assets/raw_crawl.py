"""What a crawl must deliver: a fate for every image reference, and images whose rows are complete.

The stage is ``dinov2_core/stages/raw_crawl.py``; here are its asset and its checks.
"""

from __future__ import annotations

from assets.drift import batch_check
from assets.factory import stage_asset
from assets.gates import table_check

raw_crawl = stage_asset("raw_crawl")

images_check = table_check("raw_crawl", "images")

images_batches_check = batch_check("raw_crawl", "images")
