"""Makes the thin asset of a stage: bring it up to date, report counts, name the data by its manifest's hash.

What a stage computes is in ``dinov2_core``; what must hold of its tables is in the asset's own module and in
``gates.py``.
"""

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

# No `from __future__ import annotations` here: Dagster reads the annotations of assets as objects.
import dagster as dg
from dagster._core.definitions.data_version import get_input_data_version_tag
from dagster._core.errors import DagsterError

from assets.partitions import CRAWL_BATCHES, batches_in_run
from dinov2_core import config, stage
from dinov2_core.errors import UserError
from dinov2_core.manifest import WHOLE, Manifest
from dinov2_core.stage import Materialised, StageSpec
from dinov2_core.stages import registry
from dinov2_core.tracker import Tracker

# Backfill policies and partitioned checks are used on purpose; the warnings would come once an asset.
warnings.filterwarnings("ignore", category=dg.BetaWarning)
warnings.filterwarnings("ignore", category=dg.PreviewWarning)

ACCELERATOR = "accelerator"
"""The pool of stages that want the accelerator to themselves: see ``infra/dagster.yaml``."""
Watch = Callable[[dg.AssetExecutionContext, Any, Any, StageSpec, Any], AbstractContextManager[Tracker | None]]
"""``(context, tracking, lake, spec, params) → context manager giving the stage's tracker``."""
After = Callable[[dg.AssetExecutionContext, Any, Any, Manifest], Mapping[str, Any]]
"""``(context, lake, tracking, manifest) → extra metadata``: what an asset does once its stage is up to date."""
Used = Callable[[Any], str]
"""``lake → data version`` of an external asset that this asset was made with."""

VERIFY = "dinov2/verify"
"""Tag of a run: compare every file with its manifest's checksum, and make again what does not fit."""
# Asked for by the body, and not the asset's policy: Dagster would apply that to a run that is cancelled too.
RETRY = dg.RetryPolicy(max_retries=2, delay=5, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS)


def stage_asset(
    name: str,
    *,
    watch: Watch | None = None,
    after: After | None = None,
    pool: str | None = None,
    owners: Sequence[str] | None = None,
    external: Mapping[str, Used] | None = None,
) -> dg.AssetsDefinition:
    """The Dagster asset of stage ``name``.

    Args:
        watch: opens the tracking of the run, for stages that train.
        after: runs once the stage is up to date, whether or not anything was computed; must be idempotent.
        pool: the concurrency pool, for stages that want the accelerator to themselves.
        external: external assets that it reads, by name. What it used is recorded, not what was observed last: so it
            shows as stale until it has followed.
    """
    spec = registry.get(name)
    external = external or {}

    @dg.asset(
        name=name,
        description=spec.description,
        group_name=spec.group,
        kinds=set(spec.kinds),
        code_version=spec.version,
        deps=[*(_dependency(spec, upstream) for upstream in spec.upstream), *external],
        partitions_def=CRAWL_BATCHES if spec.partitioned else None,
        backfill_policy=dg.BackfillPolicy.single_run() if spec.partitioned else None,
        pool=pool,
        owners=owners,
    )
    def body(
        context: dg.AssetExecutionContext,
        lake: dg.ResourceParam[Any],
        engine: dg.ResourceParam[Any],
        tracking: dg.ResourceParam[Any],
    ) -> dg.MaterializeResult:
        try:
            made = _materialise(context, spec, lake, engine, tracking, watch, after)
        except (dg.Failure, DagsterError):
            raise
        except Exception as error:
            wait = RETRY.calculate_delay(context.retry_number + 1)
            raise dg.RetryRequested(RETRY.max_retries, wait) from error
        used = {get_input_data_version_tag(dg.AssetKey(name)): version(lake) for name, version in external.items()}
        return made._replace(tags=used) if used else made

    return body


def _dependency(spec: StageSpec, upstream: str) -> dg.AssetDep:
    mapping = None
    if registry.get(upstream).partitioned and spec.upstream[upstream] != "same":
        mapping = dg.AllPartitionMapping()
    return dg.AssetDep(upstream, partition_mapping=mapping)


def _materialise(
    context: dg.AssetExecutionContext,
    spec: StageSpec,
    lake: Any,
    engine: Any,
    tracking: Any,
    watch: Watch | None,
    after: After | None,
) -> dg.MaterializeResult:
    partitions = batches_in_run(context) if spec.partitioned else [WHOLE]
    # Whoever asks for single assets by name has them checked, byte by byte; jobs trust what is there.
    verify = context.run.job_name.startswith("__") or VERIFY in context.run.tags
    results = []
    for partition in partitions:
        try:
            result = _brought_up_to_date(context, spec, partition, lake, engine, tracking, watch, verify)
            extra = dict(after(context, lake, tracking, result.manifest)) if after else {}
        except UserError as error:
            # The one line is the message: no retry will mend it, and a stack trace would hide it.
            where = error.where or spec.name
            if not where.startswith(spec.name):
                where = f"{spec.name}{'' if partition == WHOLE else f'[{partition}]'}: {where}"
            text = str(type(error)(error.what, where=where, todo=error.todo))
            raise dg.Failure(text, allow_retries=False) from error
        results.append(result)
        context.log.info(
            f"{result.manifest.key}: {'made' if result.fresh else 'up to date'} in {result.seconds:.1f} s, "
            f"version {result.manifest.hash[:12]}"
        )
        metadata = {**metadata_of(result), **extra}
        if spec.partitioned:
            context.add_asset_metadata(metadata, partition_key=partition)
    if not spec.partitioned:
        return dg.MaterializeResult(metadata=metadata, data_version=dg.DataVersion(results[0].manifest.hash))
    hashes = {r.manifest.partition: r.manifest.hash for r in results}
    version = next(iter(hashes.values())) if len(hashes) == 1 else config.digest(hashes)
    return dg.MaterializeResult(data_version=dg.DataVersion(version), metadata={"batches": len(results)})


def _brought_up_to_date(
    context: dg.AssetExecutionContext,
    spec: StageSpec,
    partition: str,
    lake: Any,
    engine: Any,
    tracking: Any,
    watch: Watch | None,
    verify: bool,
) -> Materialised:
    if engine.by_jobs:
        # Settings are read by the job: this process may have nothing to read a stage's with.
        return engine.submit(
            lake, spec.name, partition, verify=verify, tracked=watch is not None, run_id=context.run_id
        )
    params = spec.load_params(lake.params(spec.name))
    with watch(context, tracking, lake, spec, params) if watch else nullcontext(None) as tracker:
        return stage.materialise(
            lake.store(),
            spec,
            partition,
            params,
            shard_map=engine.shard_map(),
            launcher=engine.launcher() if watch else None,
            tracker=tracker,
            verify=verify,
        )


def metadata_of(result: Materialised) -> dict[str, Any]:
    """What the UI shows of a materialisation."""
    made = result.manifest
    shown: dict[str, Any] = {
        "manifest": made.hash,
        "computed": result.fresh,
        "seconds": round(result.seconds, 2),
        "files": len(made.files),
        "bytes": sum(f.bytes for f in made.files),
        "at": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
    rows = sum(f.rows or 0 for f in made.files)
    if rows:
        shown["dagster/row_count"] = rows
    for key, value in made.counts.items():
        if isinstance(value, bool | int | float | str):
            shown[key] = value
        elif isinstance(value, Mapping | list | tuple):
            shown[key] = dg.MetadataValue.json(config.to_plain(value))
    shown["params"] = dg.MetadataValue.json(config.to_plain(made.params))
    return shown
