"""How long each stage took when it was made: kept beside the data, never in a manifest.

A demo that is killed and run again still prints the seconds of the stages that it did not have to redo.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg


class Timings:
    """``manifest hash → seconds``, in a JSON file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}

    def collect(self, result: Any) -> float:
        """Take the seconds of every stage that a run made; returns the seconds spent inside stages, all told."""
        total = 0.0
        for event in result.all_events:
            if event.event_type is not dg.DagsterEventType.ASSET_MATERIALIZATION:
                continue
            metadata: Mapping[str, Any] = event.materialization.metadata
            if "manifest" not in metadata:
                continue
            seconds = float(metadata["seconds"].value)
            total += seconds
            if metadata["computed"].value:
                self.seconds[metadata["manifest"].value] = seconds
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.seconds, indent=1, sort_keys=True))
        temporary.replace(self.path)
        return total

    def of(self, manifest_hash: str) -> float | None:
        return self.seconds.get(manifest_hash)
