"""The jobs: which assets run together. When they run is in ``schedules.py``.

All run in one process: at laptop scale a process a step costs seconds, and at cluster scale the work is elsewhere
(shard maps and launchers), so that the step itself only waits.
"""

from __future__ import annotations

import dagster as dg

from pipelines.adoption import adopt_champion
from pipelines.all_batches import all_batches_executor
from pipelines.champion import rollback

WRITES = "dinov2/writes"
"""Tag of a run: what it writes. The run queue lets one run at a time write the same (``infra/dagster.yaml``)."""
CURATION, TRAINING = {WRITES: "curation"}, {WRITES: "training"}

full_pipeline = dg.define_asset_job(
    "full_pipeline",
    selection=dg.AssetSelection.all(),
    tags=CURATION,
    executor_def=all_batches_executor,
    description="From page archives to a registered model; without a partition tag, every batch not up to date.",
)

recurate = dg.define_asset_job(
    "recurate",
    selection=dg.AssetSelection.assets("curated_lvd").upstream(),
    tags=CURATION,
    executor_def=all_batches_executor,
    description="Everything up to the curated set; batches and stages that are up to date cost nothing.",
)

pretrain = dg.define_asset_job(
    "pretrain",
    selection=dg.AssetSelection.assets("pretrained_checkpoint", "distilled_checkpoints"),
    tags=TRAINING,
    executor_def=all_batches_executor,
    description="Pretraining and distillation on the curated set as it is.",
)

evaluate = dg.define_asset_job(
    "evaluate",
    selection=dg.AssetSelection.assets("evaluation_metrics", "registered_model", "curation_report"),
    tags=TRAINING,
    executor_def=all_batches_executor,
    description="Evaluation of the checkpoints, registration behind the gate, and the report.",
)

JOBS = (full_pipeline, recurate, pretrain, evaluate, adopt_champion, rollback)
