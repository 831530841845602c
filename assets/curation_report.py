"""The curation report: its summary in Markdown beside the asset, the page itself as a file.

The stage is ``dinov2_core/stages/curation_report.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg

from assets.factory import stage_asset
from dinov2_core.manifest import Manifest


def show(context: dg.AssetExecutionContext, lake: Any, tracking: Any, made: Manifest) -> Mapping[str, Any]:
    """Metadata for the UI: the Markdown summary and where the page lies."""
    store = lake.store()
    summary = next(f for f in made.files if f.path.endswith(".md"))
    page = next(f for f in made.files if f.path.endswith(".html"))
    return {
        "summary": dg.MetadataValue.md(store.read_bytes(summary.path).decode()),
        "page": dg.MetadataValue.path(store.full(page.path)),
    }


curation_report = stage_asset("curation_report", after=show)
