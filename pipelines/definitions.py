"""The code location: every asset, check, job, schedule and resource. ``build_defs`` gives tests a fresh copy.

Loading it imports no torch, faiss, onnxruntime, ray, mlflow or great_expectations.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg

import assets
from pipelines.all_batches import all_batches_executor
from pipelines.console import short_console
from pipelines.jobs import JOBS
from pipelines.resources.engine import Engine
from pipelines.resources.lake import Lake
from pipelines.resources.tracking import Tracking
from pipelines.schedules import SCHEDULES


def build_defs(
    *,
    resources: Mapping[str, Any] | None = None,
    jobs: tuple[Any, ...] = JOBS,
    schedules: tuple[Any, ...] = SCHEDULES,
) -> dg.Definitions:
    """All definitions; ``resources`` replaces single resources (``lake``, ``engine``, ``tracking``) by name."""
    return dg.Definitions(
        assets=dg.load_assets_from_package_module(assets),
        asset_checks=dg.load_asset_checks_from_package_module(assets),
        jobs=list(jobs),
        schedules=list(schedules),
        resources={
            "lake": Lake.from_environment(),
            "engine": Engine.from_environment(),
            "tracking": Tracking.from_environment(),
            **(resources or {}),
        },
        executor=all_batches_executor,
        loggers={"console": short_console},
    )


defs = build_defs()
