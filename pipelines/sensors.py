"""What starts runs because something happened outside: new sources, another champion, an adopted encoder, a failure.

Sensors that look outside are off until somebody switches them on (``schedules.py``); those that answer a run are on.
"""

# No `from __future__ import annotations`: Dagster reads the annotations of sensors as objects.
import json
import os

import dagster as dg
from dagster._core.definitions.data_version import DATA_VERSION_TAG
from dagster._core.storage.tags import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    WILL_RETRY_TAG,
)

from assets import champion
from assets.partitions import CRAWL_BATCHES
from dinov2_core import config
from dinov2_core.errors import UserError
from pipelines import cost, health, sources
from pipelines.adoption import ADOPTED, adopt_champion, check_setting
from pipelines.all_batches import end_killed_runs
from pipelines.jobs import recurate
from pipelines.resources.alerts import Alerts
from pipelines.resources.lake import Lake
from pipelines.resources.tracking import Tracking
from pipelines.schedules import BY_ITSELF

LOOK_SECONDS = int(os.environ.get("DINOV2_LOOK_SECONDS", "60"))
"""How often the watched prefix is listed."""


@dg.sensor(
    job=recurate,
    minimum_interval_seconds=LOOK_SECONDS,
    default_status=BY_ITSELF,
    description="A new or changed folder below raw_crawl.sources becomes a batch and is curated, once it is complete.",
)
def new_batches(context: dg.SensorEvaluationContext, lake: Lake) -> dg.SensorResult | dg.SkipReason:
    """One run for all batches that have changed, and have stayed as they are since the last look."""
    try:
        now, loose = sources.listing(lake)
    except UserError as error:
        return dg.SkipReason(str(error))
    note = f"; not in a folder, and so in no batch: {', '.join(loose[:5])}" if loose else ""
    cursor = json.loads(context.cursor) if context.cursor else {"before": {}, "done": {}}
    changed = sources.settled(now, cursor["before"], cursor["done"])
    waiting = {name: state for name, state in now.items() if cursor["done"].get(name) != state and name not in changed}
    done = {**{k: v for k, v in cursor["done"].items() if k in now}, **{name: now[name] for name in changed}}
    after = {"before": waiting, "done": done}
    if not changed:
        # The cursor is only written where it says something new.
        if after != cursor:
            context.update_cursor(json.dumps(after))
        return dg.SkipReason(f"{len(waiting)} batches may still be being written, {len(done)} are known{note}")
    registered = context.instance.get_dynamic_partitions(str(CRAWL_BATCHES.name))
    added = [name for name in changed if name not in registered]
    first, last = sources.covering(
        [*changed, *sources.unfinished(lake.store(), list(registered))], [*registered, *added]
    )
    context.log.info(f"batches {', '.join(changed[:20])}: a run over {first} … {last}{note}")
    return dg.SensorResult(
        dynamic_partitions_requests=[CRAWL_BATCHES.build_add_request(added)] if added else [],
        run_requests=[
            dg.RunRequest(
                # The same look at the same state asks for the same run, even if this process dies before it says so.
                run_key=config.digest([cursor, after])[:32],
                tags={ASSET_PARTITION_RANGE_START_TAG: first, ASSET_PARTITION_RANGE_END_TAG: last},
            )
        ],
        cursor=json.dumps(after),
    )


@dg.sensor(
    minimum_interval_seconds=5 * LOOK_SECONDS,
    default_status=BY_ITSELF,
    description="Another champion marks the embeddings as stale and says what re-embedding costs; it starts nothing.",
)
def champion_changed(
    context: dg.SensorEvaluationContext, lake: Lake, tracking: Tracking, alerts: Alerts
) -> dg.SensorResult | dg.SkipReason:
    """Record which version is champion; propose the job that adopts it."""
    try:
        check_setting(lake)
        found = tracking.champion(tracking.client())
    except UserError as error:
        return dg.SkipReason(str(error))
    if found is None:
        return dg.SkipReason(f"no version of {tracking.model_name} is champion")
    version = str(found.version)
    if version == context.cursor:
        return dg.SkipReason(f"version {version} is still champion")
    if version == champion.adopted_version(lake):
        text = f"{tracking.model_name} version {version} is champion, and embeds already"
    else:
        price = cost.estimate(context.instance, lake.store())
        text = (
            f"{tracking.model_name} version {version} is champion. The pool is embedded by another: the job "
            f"{adopt_champion.name} changes that ({price}, for an encoder of the present size)."
        )
    context.log.info(text)
    alerts.send(text)
    # A materialisation and not an observation: only those give an external asset a version that others are stale by.
    seen = dg.AssetMaterialization(champion.NAME, tags={DATA_VERSION_TAG: version}, description=text)
    return dg.SensorResult(asset_events=[seen], cursor=version)


@dg.run_status_sensor(
    run_status=dg.DagsterRunStatus.SUCCESS,
    monitored_jobs=[adopt_champion],
    request_job=recurate,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Once a champion is adopted, the pool is embedded and curated by it.",
)
def encoder_adopted(context: dg.RunStatusSensorContext) -> dg.RunRequest | dg.SkipReason:
    """A run over all batches, once an adoption."""
    version = context.dagster_run.tags.get(ADOPTED)
    if version is None:
        return dg.SkipReason("the run gave an estimate and adopted nothing")
    return dg.RunRequest(run_key=f"adopted-{context.dagster_run.run_id}", tags={ADOPTED: version})


@dg.run_failure_sensor(
    default_status=dg.DefaultSensorStatus.RUNNING, description="Tells the webhook of a run that failed for good."
)
def failed_runs(context: dg.RunFailureSensorContext, alerts: Alerts) -> dg.SkipReason | None:
    """One message a run that will not be tried again, with the failed steps' own lines."""
    run = context.dagster_run
    if run.tags.get(WILL_RETRY_TAG) == "true":
        return dg.SkipReason(f"run {run.run_id} will be tried again")
    steps = []
    for event in context.get_step_failure_events():
        failed = event.step_failure_data.error
        steps.append(f"{event.step_key}: {((failed and failed.cause) or failed).message.strip()}" if failed else "")
    alerts.send(
        "\n".join([f"{run.job_name} failed (run {run.run_id})", *(steps or [context.failure_event.message or ""])])
    )
    return None


@dg.sensor(
    minimum_interval_seconds=min(LOOK_SECONDS, 30),
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Ends runs of this machine whose process was killed, so that they are tried again and hold no pool.",
)
def killed_runs(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """Also where the code server, which watches its runs, was killed with them."""
    end_killed_runs(context.instance)
    return dg.SkipReason("looked")


SENSORS = (new_batches, champion_changed, encoder_adopted, failed_runs, killed_runs, *health.SENSORS)
