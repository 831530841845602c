"""``python -m tests.toy_materialize STAGE …``: ``pipelines.materialize`` on the toy pipeline."""

from __future__ import annotations

import sys

from dinov2_core.stages import registry
from pipelines import materialize
from pipelines.definitions import build_defs
from pipelines.jobs import full_pipeline
from tests import toy_pipeline

if __name__ == "__main__":
    registry.STAGES.clear()
    registry.STAGES.update(toy_pipeline.STAGES)
    toys = build_defs(assets=toy_pipeline.assets(), jobs=(full_pipeline,), schedules=(), sensors=())
    sys.exit(materialize.main(sys.argv[1:], definitions=toys))
