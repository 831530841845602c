"""Conditions and deadlines of assets: what may run by itself once a week, and what counts as overdue.

They are put on the assets here, so that ``assets`` says what exists and ``pipelines`` says when.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from typing import Any

import dagster as dg

from assets import champion
from dinov2_core.stages import registry
from pipelines.cost import upstream_of

CRON = "0 3 * * 1"
"""Mondays at 3."""
CURATED = "curated_lvd"
OVERDUE = dg.FreshnessPolicy.time_window(fail_window=dt.timedelta(days=15), warn_window=dt.timedelta(days=8))
"""A curated set is looked after once a week: a missed week warns, two fail."""
FRESH = ("deduplicated_set", CURATED)


def weekly_if_changed() -> dg.AutomationCondition[Any]:
    """Once a week, where what the asset reads has new data, its code has changed, or it is missing.

    It waits for what is under way and for what is missing upstream; assets that follow each other go in one run where
    they have the same partitions.
    """
    condition = dg.AutomationCondition
    # Another champion starts nothing by itself, and none at all is no reason to wait.
    outside = dg.AssetSelection.assets(champion.NAME)
    changed = condition.any_deps_match(condition.data_version_changed() | condition.will_be_requested())
    changed = changed.ignore(outside)
    return (
        condition.cron_tick_passed(CRON).since_last_handled()
        & (changed.since_last_handled() | condition.code_version_changed().since_last_handled() | condition.missing())
        & ~condition.any_deps_missing().ignore(outside)
        & ~condition.any_deps_in_progress()
        & ~condition.in_progress()
    ).with_label("weekly, if changed")


def curation() -> tuple[str, ...]:
    """The stages up to the curated set, which alone may run by themselves: nothing that trains a model for release."""
    wanted = {CURATED, *upstream_of(CURATED)}
    return tuple(name for name in registry.STAGES if name in wanted)


def automated(assets: Iterable[Any]) -> list[Any]:
    """The assets with their conditions and deadlines."""
    names = set(curation())

    def add(spec: dg.AssetSpec) -> dg.AssetSpec:
        name = spec.key.to_user_string()
        if name in names:
            spec = spec.replace_attributes(automation_condition=weekly_if_changed())
        return spec.replace_attributes(freshness_policy=OVERDUE) if name in FRESH else spec

    return list(dg.map_asset_specs(add, assets))


def weekly_automation() -> dg.AutomationConditionSensorDefinition:
    """The sensor that evaluates the conditions."""
    return dg.AutomationConditionSensorDefinition(
        name="weekly_automation",
        target=dg.AssetSelection.assets(*curation()),
        description="Weekly, asset by asset, only where something changed. The schedule is the plainer way: use one.",
    )
