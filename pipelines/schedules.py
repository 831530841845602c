"""When jobs run by themselves."""

from __future__ import annotations

import dagster as dg

from pipelines.jobs import recurate

weekly_recuration = dg.ScheduleDefinition(
    name="weekly_recuration",
    job=recurate,
    cron_schedule="0 3 * * 1",
    description="Mondays at 3: new batches are curated; what is up to date costs nothing.",
)

SCHEDULES = (weekly_recuration,)
