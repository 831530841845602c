"""A run of partitioned assets that names no batch covers every batch.

Dagster gives such a run no partitions at all, and partitioned assets then fail on their inputs. A run over everything
is the range of all batches: the tags below say so, and the executor puts them on runs that came without any.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.executor.in_process import InProcessExecutor
from dagster._core.storage.tags import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    PARTITION_NAME_TAG,
)
from sqlalchemy.exc import DBAPIError

from assets.factory import ACCELERATOR
from assets.partitions import CRAWL_BATCHES
from dinov2_core.errors import UserError
from dinov2_core.stages import registry
from pipelines import versions
from pipelines.resources.lake import Lake


def range_tags(instance: dg.DagsterInstance, lake: Lake, steps: Iterable[str]) -> dict[str, str]:
    """Register the lake's batches and return the tags of a run over all registered ones.

    Empty where none of ``steps`` (asset names) is partitioned.

    Raises:
        UserError: a step needs batches and there are none.
    """
    needing = [name for name in steps if name in registry.STAGES and registry.get(name).partitioned]
    if not needing:
        return {}
    name = str(CRAWL_BATCHES.name)
    instance.add_dynamic_partitions(name, lake.batches())
    # A range follows the order in which partitions were registered, not the alphabet.
    known = instance.get_dynamic_partitions(name)
    if not known:
        raise UserError(
            "there is no crawl batch",
            where=needing[0],
            todo=f"put a folder with page archives, lists or images below the sources of {lake.data_root}",
        )
    return {ASSET_PARTITION_RANGE_START_TAG: known[0], ASSET_PARTITION_RANGE_END_TAG: known[-1]}


PROCESS = "dinov2/process"
"""Tag of a run: the machine and process that execute it."""
STARTED = "dinov2/process_started"
"""Tag of a run: when that process started, in ticks since the machine did; numbers of processes are used again."""
EXECUTES = "dinov2/executes"
"""Tag of a run: the run that the process executes. A run that is tried again inherits the tags of the killed one."""


def this_process(run_id: str = "") -> dict[str, str]:
    """The tags that say who executes a run."""
    tags = {PROCESS: f"{socket.gethostname()}:{os.getpid()}", STARTED: _started(os.getpid()) or ""}
    return {**tags, EXECUTES: run_id} if run_id else tags


def _started(pid: int | str) -> str | None:
    """The start of a living process in ticks, as text; None where there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name, in parentheses, may hold anything.
    state, *rest = text.rpartition(")")[2].split()
    return None if state == "Z" else rest[18]


def end_killed_runs(instance: dg.DagsterInstance) -> None:
    """Mark runs of this machine whose process is gone as failed, and give their pool slots back.

    A killed process cannot say that it ended: its run would show as running for ever, and its slot in a pool would
    keep every later run waiting.
    """
    if not Path("/proc/self/stat").exists():
        return
    unfinished = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING])
    for run in instance.get_runs(unfinished):
        host, _, pid = run.tags.get(PROCESS, "").rpartition(":")
        if host != socket.gethostname() or run.tags.get(EXECUTES, run.run_id) != run.run_id:
            continue
        now = _started(pid)
        if now is None or now != (run.tags.get(STARTED) or now):
            # It may have ended well since it was listed: what a dead process had to say, it has said by now.
            latest = instance.get_run_by_id(run.run_id)
            if latest is None or latest.is_finished:
                continue
            instance.report_run_failed(run, "the process was killed; a later run goes on from its finished shards")
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)


def open_pool(instance: dg.DagsterInstance) -> None:
    """Let the pool have its limit before a step asks for it.

    Dagster does so with the first step; of two runs that do it at once on PostgreSQL, the one that comes second fails
    (its fallback goes on in a transaction that the server has given up).
    """
    storage = instance.event_log_storage
    if ACCELERATOR in {limit.name for limit in storage.get_pool_limits()}:
        return
    try:
        storage.initialize_concurrency_limit_to_default(ACCELERATOR)
    except DBAPIError:
        if ACCELERATOR not in {limit.name for limit in storage.get_pool_limits()}:
            raise


class AllBatchesExecutor(InProcessExecutor):
    """Runs steps one after the other in the run's own process; a run without a partition tag takes every batch."""

    def execute(self, plan_context: Any, execution_plan: Any) -> Iterator[Any]:
        data = plan_context.plan_data
        end_killed_runs(data.instance)
        open_pool(data.instance)
        data.instance.add_run_tags(data.dagster_run.run_id, this_process(data.dagster_run.run_id))
        tags = data.dagster_run.tags
        partitioned = data.job.get_definition().partitions_def is not None
        if partitioned and not {PARTITION_NAME_TAG, ASSET_PARTITION_RANGE_START_TAG} & set(tags):
            added = range_tags(data.instance, Lake.from_environment(), execution_plan.step_keys_to_execute)
            data.instance.add_run_tags(data.dagster_run.run_id, added)
            run = data.dagster_run.with_tags({**tags, **added})
            plan_context._plan_data = data._replace(dagster_run=run)
        yield from super().execute(plan_context, execution_plan)
        # Outside of a checkout's own data root this does nothing.
        versions.record(Lake.from_environment(), execution_plan.step_keys_to_execute)


@dg.executor(name="in_process_all_batches")
def all_batches_executor(context: dg.InitExecutorContext) -> AllBatchesExecutor:
    """The executor of every job here."""
    from dagster._core.execution.retries import RetryMode

    return AllBatchesExecutor(retries=RetryMode.ENABLED)
