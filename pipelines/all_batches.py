"""A run of partitioned assets that names no batch covers every batch.

Dagster gives such a run no partitions at all, and partitioned assets then fail on their inputs. A run over everything
is the range of all batches: the tags below say so, and the executor puts them on runs that came without any.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import dagster as dg
from dagster._core.executor.in_process import InProcessExecutor
from dagster._core.storage.tags import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    PARTITION_NAME_TAG,
)

from assets.partitions import CRAWL_BATCHES
from pipelines.resources.lake import Lake


def range_tags(instance: dg.DagsterInstance, batches: Sequence[str]) -> dict[str, str]:
    """Register ``batches`` and return the tags of a run over all registered ones; empty where there are none."""
    name = str(CRAWL_BATCHES.name)
    instance.add_dynamic_partitions(name, list(batches))
    # A range follows the order in which partitions were registered, not the alphabet.
    known = instance.get_dynamic_partitions(name)
    if not known:
        return {}
    return {ASSET_PARTITION_RANGE_START_TAG: known[0], ASSET_PARTITION_RANGE_END_TAG: known[-1]}


class AllBatchesExecutor(InProcessExecutor):
    """Runs steps one after the other in the run's own process; a run without a partition tag takes every batch."""

    def execute(self, plan_context: Any, execution_plan: Any) -> Iterator[Any]:
        data = plan_context.plan_data
        tags = data.dagster_run.tags
        partitioned = data.job.get_definition().partitions_def is not None
        if partitioned and not {PARTITION_NAME_TAG, ASSET_PARTITION_RANGE_START_TAG} & set(tags):
            added = range_tags(data.instance, Lake.from_environment().batches())
            data.instance.add_run_tags(data.dagster_run.run_id, added)
            run = data.dagster_run.with_tags({**tags, **added})
            plan_context._plan_data = data._replace(dagster_run=run)
        yield from super().execute(plan_context, execution_plan)


@dg.executor(name="in_process_all_batches")
def all_batches_executor(context: dg.InitExecutorContext) -> AllBatchesExecutor:
    """The executor of every job here."""
    from dagster._core.execution.retries import RetryMode

    return AllBatchesExecutor(retries=RetryMode.ENABLED)
