"""The toy pipeline as a code location for real daemons and servers: `dagster … -m tests.toy_location`."""

from __future__ import annotations

from dinov2_core.stages import registry
from pipelines.definitions import build_defs
from pipelines.jobs import adopt_champion, full_pipeline, recurate
from tests import toy_pipeline

# Only now: loading the definitions needs the real stages.
registry.STAGES.clear()
registry.STAGES.update(toy_pipeline.STAGES)
defs = build_defs(assets=toy_pipeline.assets(), jobs=(full_pipeline, recurate, adopt_champion))
