"""Great Expectations 1.x as Dagster asset checks: one suite a table, declared beside its asset.

An ``error`` expectation blocks what is downstream; a ``warn`` shows and lets pass. Suites are plain data here, so
that loading the definitions imports no Great Expectations. Which expectations a table has does not belong here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

# No `from __future__ import annotations` here: Dagster reads the annotations of assets as objects.
import dagster as dg

from assets.partitions import CRAWL_BATCHES, batches_in_run
from dinov2_core import manifest
from dinov2_core.manifest import WHOLE
from dinov2_core.stages import registry
from dinov2_core.storage import Store

Severity = Literal["error", "warn"]
ROW_LIMIT = 200_000
"""Rows that a check looks at: beyond it, whole parts are sampled evenly (building results costs more than the test)."""


@dataclass(frozen=True)
class Expect:
    """One expectation: ``kind`` is the name of a class in ``great_expectations.expectations``."""

    kind: str
    settings: Mapping[str, Any]
    severity: Severity = "error"


def error(kind: str, **settings: Any) -> Expect:
    """An expectation whose failure blocks everything downstream."""
    return Expect(kind, settings, "error")


def warn(kind: str, **settings: Any) -> Expect:
    """An expectation whose failure is shown and lets the run go on."""
    return Expect(kind, settings, "warn")


@dataclass(frozen=True)
class Outcome:
    """How one expectation ended: ``observed`` and ``examples`` say what was seen."""

    expect: Expect
    success: bool
    observed: Any
    examples: tuple[Any, ...]


def validate(frame: Any, suite: Sequence[Expect], *, name: str) -> list[Outcome]:
    """Run ``suite`` over a pandas ``frame`` through Great Expectations.

    Raises:
        ValueError: an expectation that Great Expectations could not evaluate (a wrong column, say).
    """
    import great_expectations as gx

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}  # they would drown ours
    batch = context.data_sources.add_pandas(name).add_dataframe_asset(name).add_batch_definition_whole_dataframe(name)
    expectations = [getattr(gx.expectations, e.kind)(**e.settings) for e in suite]
    made = context.suites.add(gx.ExpectationSuite(name=name, expectations=expectations))
    definition = gx.ValidationDefinition(name=name, data=batch, suite=made)
    result = definition.run(batch_parameters={"dataframe": frame}, result_format="SUMMARY")
    # Great Expectations may reorder a suite's results: join them by what they were asked.
    by_id = {e.id: wanted for e, wanted in zip(made.expectations, suite, strict=True)}
    outcomes = []
    for one in result.results:
        info = one.exception_info or {}
        raised = info.get("raised_exception") or any(
            isinstance(v, dict) and v.get("raised_exception") for v in info.values()
        )
        wanted = by_id[one.expectation_config.id]
        if raised:
            raise ValueError(f"{name}: {wanted.kind} {dict(wanted.settings)} could not be evaluated: {info}")
        body = one.result or {}
        observed = body.get("observed_value", body.get("unexpected_count"))
        examples = tuple(body.get("partial_unexpected_list") or ())[:5]
        outcomes.append(Outcome(wanted, bool(one.success), observed, examples))
    return outcomes


def table_check(asset: str, table: str, suite: Sequence[Expect]) -> dg.AssetChecksDefinition:
    """The asset check that runs ``suite`` over ``table`` of ``asset``."""
    spec = registry.get(asset)
    partitions = CRAWL_BATCHES if spec.partitioned else None

    @dg.asset_check(
        asset=asset,
        name=f"{table}_table",
        description=f"Great Expectations over the {table} table: {len(suite)} expectations.",
        blocking=True,
        partitions_def=partitions,
    )
    def check(context: dg.AssetCheckExecutionContext, lake: dg.ResourceParam[Any]) -> dg.AssetCheckResult:
        store = lake.store()
        found = manifest.partitions(store, asset)
        wanted = batches_in_run(context) if partitions is not None else [WHOLE]
        frame, rows = read_frame(store, asset, table, [p for p in wanted if p in found])
        return to_result(validate(frame, suite, name=f"{asset}.{table}"), rows=rows, seen=len(frame))

    return check


def read_frame(store: Store, asset: str, table: str, partitions: Sequence[str]) -> tuple[Any, int]:
    """``(pandas frame of at most ROW_LIMIT rows, rows in all)``; embeddings are reduced to their norm."""
    import pandas as pd

    parts = []
    for partition in partitions:
        made = manifest.read(store, asset, partition)
        parts += made.table(table) if made else []
    rows = sum(p.rows or 0 for p in parts)
    while len(parts) > 1 and sum(p.rows or 0 for p in parts) > ROW_LIMIT:
        parts = parts[::2]
    frames = [_to_frame(store.read_table(p.path)) for p in parts]
    if not frames:
        raise dg.Failure(f"{asset}: no table '{table}' to check; materialise {asset} first")
    return pd.concat(frames, ignore_index=True), rows


def _to_frame(table: Any) -> Any:
    import numpy as np
    import pyarrow as pa

    names = [f.name for f in table.schema if not pa.types.is_nested(f.type) and not pa.types.is_binary(f.type)]
    frame = table.select(names).to_pandas()
    if "embedding" in table.column_names:
        width = table.schema.field("embedding").type.list_size
        values = table["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        frame["norm"] = np.linalg.norm(values.reshape(-1, width).astype(np.float32), axis=1)
    return frame


def to_result(outcomes: Sequence[Outcome], *, rows: int, seen: int) -> dg.AssetCheckResult:
    """Great Expectations' outcomes as one asset check result."""
    failed = [o for o in outcomes if not o.success]
    blocking = [o for o in failed if o.expect.severity == "error"]
    records = [
        dg.TableRecord(
            {
                "expectation": o.expect.kind,
                "column": str(o.expect.settings.get("column", "")),
                "severity": o.expect.severity,
                "passed": o.success,
                "observed": str(o.observed),
                "examples": ", ".join(map(str, o.examples)),
            }
        )
        for o in outcomes
    ]
    said = "; ".join(
        f"{o.expect.kind} on {o.expect.settings.get('column', 'the table')}: {o.observed}"
        + (f" (e.g. {', '.join(map(str, o.examples[:3]))})" if o.examples else "")
        for o in failed
    )
    return dg.AssetCheckResult(
        passed=not failed,
        severity=dg.AssetCheckSeverity.ERROR if blocking or not failed else dg.AssetCheckSeverity.WARN,
        description=said or f"{len(outcomes)} expectations met on {rows} rows",
        metadata={"rows": rows, "rows_seen": seen, "expectations": dg.MetadataValue.table(records)},
    )
