"""The code location: every asset, check, job, schedule and resource. ``build_defs`` gives tests a fresh copy.

Loading it imports no torch, faiss, onnxruntime, ray, mlflow or great_expectations.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

import assets as asset_modules
from pipelines.all_batches import all_batches_executor
from pipelines.automation import automated, weekly_automation
from pipelines.console import short_console
from pipelines.jobs import JOBS
from pipelines.resources.alerts import Alerts
from pipelines.resources.engine import Engine
from pipelines.resources.lake import Lake
from pipelines.resources.tracking import Tracking
from pipelines.schedules import SCHEDULES
from pipelines.sensors import SENSORS


def build_defs(
    *,
    resources: Mapping[str, Any] | None = None,
    assets: Sequence[Any] | None = None,
    checks: Sequence[Any] | None = None,
    jobs: tuple[Any, ...] = JOBS,
    schedules: tuple[Any, ...] = SCHEDULES,
    sensors: tuple[Any, ...] = SENSORS,
) -> dg.Definitions:
    """All definitions; ``resources`` replaces single ones (``lake``, ``engine``, ``tracking``, ``alerts``) by name."""
    if assets is None:
        assets = dg.load_assets_from_package_module(asset_modules, include_specs=True)
        checks = dg.load_asset_checks_from_package_module(asset_modules)
    return dg.Definitions(
        assets=automated(assets),
        asset_checks=list(checks or ()),
        jobs=list(jobs),
        schedules=list(schedules),
        sensors=[*sensors, weekly_automation()],
        resources={
            "lake": Lake.from_environment(),
            "engine": Engine.from_environment(),
            "tracking": _tracking(),
            "alerts": Alerts(),
            **(resources or {}),
        },
        executor=all_batches_executor,
        loggers={"console": short_console},
    )


def _tracking() -> Tracking:
    # By name: the address may hold a password, and the web interface shows the configuration of resources.
    named = "MLFLOW_TRACKING_URI" in os.environ
    return Tracking(uri=dg.EnvVar("MLFLOW_TRACKING_URI")) if named else Tracking()


defs = build_defs()
