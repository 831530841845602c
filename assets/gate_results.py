"""What the asset checks before an asset last said, from the orchestrator's own record.

The checks themselves stand beside their assets.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import dagster as dg
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus

from dinov2_core.stages import registry

_LOOK_BACK = 100
"""Materialisations of an asset that are searched for the last one that computed anything."""


def upstream(stage: str) -> set[str]:
    """All stages that ``stage`` is made from, directly or not."""
    found: set[str] = set()
    left = list(registry.get(stage).upstream)
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            left += registry.get(name).upstream
    return found


def check_keys(stages: Iterable[str]) -> list[dg.AssetCheckKey]:
    """The keys of the blocking checks of these stages' assets: the others may run after what is downstream."""
    import assets

    found = {
        spec.key
        for checks in dg.load_asset_checks_from_package_module(assets)
        for spec in checks.check_specs
        if spec.blocking and spec.asset_key.to_user_string() in set(stages)
    }
    return sorted(found, key=lambda key: key.to_user_string())


def not_passed(instance: dg.DagsterInstance, keys: Iterable[dg.AssetCheckKey]) -> list[str]:
    """Of these checks those that failed as an error, were never made, or are older than what they should have checked;
    each with what it said."""
    keys = list(keys)
    records = instance.event_log_storage.get_latest_asset_check_execution_by_key(keys)
    computed = {key.asset_key: _last_computed(instance, key.asset_key) for key in keys}
    found = []
    for key in keys:
        name = f"{key.asset_key.to_user_string()}:{key.name}"
        event = _evaluation(records.get(key))
        if event is None:
            found.append(f"{name} (never made)")
            continue
        said = event.dagster_event.asset_check_evaluation_data
        if event.timestamp < computed[key.asset_key]:
            found.append(f"{name} (made before the present data)")
        elif not said.passed and said.severity is dg.AssetCheckSeverity.ERROR:
            found.append(f"{name} ({(said.description or 'failed')[:200]})")
    return found


def _evaluation(record: Any) -> Any | None:
    """The event of a check that has been made; one that is only planned has none."""
    done = (AssetCheckExecutionRecordStatus.SUCCEEDED, AssetCheckExecutionRecordStatus.FAILED)
    return record.event if record is not None and record.status in done else None


def _last_computed(instance: dg.DagsterInstance, asset: dg.AssetKey) -> float:
    """When the asset was last materialised with something computed; 0 where that is not known."""
    for record in instance.fetch_materializations(asset, limit=_LOOK_BACK).records:
        made = record.asset_materialization
        shown = made.metadata.get("computed") if made else None
        if shown is not None and shown.value:
            return float(record.timestamp)
    return 0.0
