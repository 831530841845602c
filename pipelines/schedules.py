"""When jobs run by themselves. All is off until switched on, in the web interface or by ``DINOV2_AUTOMATION=on``."""

from __future__ import annotations

import os

import dagster as dg

from pipelines.jobs import recurate

AUTOMATION = os.environ.get("DINOV2_AUTOMATION") == "on"
BY_ITSELF = dg.DefaultSensorStatus.RUNNING if AUTOMATION else dg.DefaultSensorStatus.STOPPED
"""The state in which sensors start that look outside."""

weekly_recuration = dg.ScheduleDefinition(
    name="weekly_recuration",
    job=recurate,
    cron_schedule="0 3 * * 1",
    default_status=dg.DefaultScheduleStatus.RUNNING if AUTOMATION else dg.DefaultScheduleStatus.STOPPED,
    description="Mondays at 3: new batches are curated; what is up to date costs nothing.",
)

SCHEDULES = (weekly_recuration,)
