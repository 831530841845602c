"""Sensors for what is not well though no run failed: assets that are overdue, checks that warn. Each is told once.

What failed is told by ``sensors.py``. When an asset is overdue is in ``automation.py``; Dagster's daemon decides it.
"""

# No `from __future__ import annotations`: Dagster reads the annotations of sensors as objects.
import datetime as dt
import json
from collections.abc import Iterable, Mapping
from typing import Any

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluation
from dagster._core.definitions.freshness import FreshnessState, TimeWindowFreshnessPolicy
from dagster._core.storage.asset_check_execution_record import (
    AssetCheckExecutionRecord,
    AssetCheckExecutionRecordStatus,
)
from dagster._time import get_current_timestamp

from dinov2_core.manifest import WHOLE
from pipelines.jobs import recurate
from pipelines.notices import Notices
from pipelines.resources.alerts import Alerts

LOOK_SECONDS = 60
LATE = (FreshnessState.WARN, FreshnessState.FAIL)
DONE = (AssetCheckExecutionRecordStatus.SUCCEEDED, AssetCheckExecutionRecordStatus.FAILED)
EVALUATIONS = 100
"""The newest of a check that a look takes in: more between two looks than anybody makes."""


@dg.sensor(
    minimum_interval_seconds=LOOK_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Tells the webhook of assets that are later than their freshness policy allows, once each.",
)
def overdue_assets(context: dg.SensorEvaluationContext, alerts: Alerts) -> dg.SkipReason:
    """What the freshness daemon last said of each asset that has a deadline."""
    graph = _graph(context)
    policies = {key: graph.get(key).freshness_policy_or_from_metadata for key in graph.get_all_asset_keys()}
    watched = [key for key, policy in policies.items() if policy is not None]
    states = context.instance.get_freshness_state_records(watched)
    notices = Notices.from_json(context.cursor or "{}")
    for key in watched:
        # Not judged (never made, or the daemon has not looked yet) is neither late nor well.
        if key in states and states[key].freshness_state in (*LATE, FreshnessState.PASS):
            late = [WHOLE] if states[key].freshness_state in LATE else []
            notices.seen(key.to_user_string(), [WHOLE], late, _lateness(context.instance, key, policies[key]))
    return _tell(context, notices, alerts)


def _lateness(instance: dg.DagsterInstance, key: dg.AssetKey, policy: Any) -> str:
    made = instance.get_latest_materialization_event(key)
    said = "is overdue"
    if made is not None:
        at = dt.datetime.fromtimestamp(made.timestamp, dt.UTC)
        days = (get_current_timestamp() - made.timestamp) / 86400
        said += f": last looked after {at:%Y-%m-%d %H:%M} UTC, {days:.1f} days ago"
    if isinstance(policy, TimeWindowFreshnessPolicy):
        windows = {"warns": policy.warn_window, "fails": policy.fail_window}
        limits = [f"{does} after {_days(window.to_timedelta())}" for does, window in windows.items() if window]
        said += f"; its policy {' and '.join(limits)}"
    return f"{said}. Launch the job {recurate.name}, and see in its runs and in the schedule why none has ended."


def _days(window: dt.timedelta) -> str:
    return f"{window.total_seconds() / 86400:g} days"


@dg.sensor(
    minimum_interval_seconds=LOOK_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Tells the webhook of checks that failed and blocked nothing, once each until they pass again.",
)
def warning_checks(context: dg.SensorEvaluationContext, alerts: Alerts) -> dg.SkipReason:
    """The evaluations since the last look. A check that blocks fails its run, of which ``failed_runs`` tells."""
    before = json.loads(context.cursor or "{}")
    notices = Notices.from_json(json.dumps(before.get("notices", {})))
    handled: dict[str, list[int]] = before.get("handled", {})
    storage = context.instance.event_log_storage
    latest = storage.get_latest_asset_check_execution_by_key(list(_graph(context).asset_check_keys))
    for key, record in sorted(latest.items(), key=lambda item: item[0].to_user_string()):
        name = key.to_user_string()
        known = handled.get(name, [])
        if record.id in known or record.status not in DONE:
            continue
        # A row is numbered when its check is planned: one with a lower number may end after one with a higher.
        done = [r for r in storage.get_asset_check_execution_history(key, EVALUATIONS) if r.status in DONE]
        new = [r for r in done if r.id not in known]
        for one in sorted(new, key=lambda r: r.event.timestamp if r.event else 0.0):
            _judge(name, one, notices)
        handled[name] = [r.id for r in done]
    return _tell(context, notices, alerts, handled=handled)


def _judge(name: str, record: AssetCheckExecutionRecord, notices: Notices) -> None:
    said = record.evaluation
    assert said is not None, "it is done"
    if not said.passed and said.blocking and said.severity is dg.AssetCheckSeverity.ERROR:
        # Told with its run, and not well: who was told of a warning before is not told of the same one after it.
        return
    checked = _names(said.metadata.get("partitions")) or [said.partition or WHOLE]
    notices.seen(name, checked, [] if said.passed else _where(said, checked), _warning(said))


def _names(value: Any) -> list[str]:
    return [str(one) for one in value.value] if isinstance(value, dg.JsonMetadataValue) else []


def _failed(said: AssetCheckEvaluation) -> list[Mapping[str, Any]]:
    value = said.metadata.get("failed")
    return list(value.value) if isinstance(value, dg.JsonMetadataValue) else []  # type: ignore[arg-type]


def _where(said: AssetCheckEvaluation, checked: list[str]) -> list[str]:
    """Of the partitions that were checked, those whose parts the result names; all where it names none."""
    parts: Iterable[str] = {step for one in _failed(said) for part in one["parts"] for step in str(part).split("/")}
    return [name for name in checked if name in parts] or checked


def _warning(said: AssetCheckEvaluation) -> str:
    # Without the examples: they may be what a crawled page wrote, and chats make links and pictures of text.
    found = [f"{one['expectation']} on {one['column'] or 'the table'}: {one['observed']}" for one in _failed(said)]
    page = said.metadata.get("data_docs")
    look = f"see {page.value}, then " if isinstance(page, dg.PathMetadataValue) else ""
    return (
        f"the check warns; what is downstream goes on. {'; '.join(found) or said.description or 'failed'}. To do: "
        f"{look}mend the data and materialise the asset again, or change the limit (docs/operations.md, Gates)."
    )


def _graph(context: dg.SensorEvaluationContext) -> Any:
    assert context.repository_def is not None, "a sensor of a code location"
    return context.repository_def.asset_graph


def _tell(context: dg.SensorEvaluationContext, notices: Notices, alerts: Alerts, **rest: Any) -> dg.SkipReason:
    sent = notices.tell(alerts)
    kept = notices.to_json()
    context.update_cursor(json.dumps({"notices": json.loads(kept), **rest}) if rest else kept)
    unwell = len(notices.subjects)
    return dg.SkipReason(f"{unwell} not well, told of {sent} just now")


SENSORS = (overdue_assets, warning_checks)
