"""Great Expectations 1.x as Dagster asset checks: a table is summarised by shard, the summaries are judged.

All rows are looked at, in ``dinov2_core/gates``; what Great Expectations is given is one row a part file with a number
an expectation, so that its cost does not grow with the table. An ``error`` expectation blocks what is downstream; a
``warn`` shows and lets pass. Which expectations a table has does not belong here.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

# No `from __future__ import annotations` here: Dagster reads the annotations of assets as objects.
import dagster as dg

from assets import data_docs
from assets.partitions import CRAWL_BATCHES, batches_in_run
from assets.suites import OPTIONAL, SUITES
from dinov2_core import manifest
from dinov2_core.errors import UserError
from dinov2_core.gates import table_summary
from dinov2_core.gates.blocks import show
from dinov2_core.gates.expectation import Expect, Finding, Outcome
from dinov2_core.manifest import WHOLE
from dinov2_core.stages import registry
from dinov2_core.storage import Store

VALUES = "ExpectColumnValuesToBeBetween"


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
        examples = tuple(map(show, body.get("partial_unexpected_list") or ()))[:5]
        outcomes.append(Outcome(wanted, bool(one.success), observed, examples))
    return outcomes


def judge(findings: Sequence[Finding], parts: Sequence[str], *, name: str) -> list[Outcome]:
    """What was measured, judged by Great Expectations: an outcome a finding, in their order.

    A finding without any value holds: there was nothing to judge.
    """
    import pandas as pd

    columns: dict[str, list[float | None]] = {}
    suite = []
    for number, finding in enumerate(findings):
        if all(value is None for value in finding.values):
            continue
        key = f"{number:03d}"
        columns[key] = [_comparable(value, finding) for value in finding.values]
        limits = {"min_value": finding.low, "max_value": finding.high}
        suite.append(Expect(VALUES, {"column": key, **limits}, finding.expect.severity))
    judged = {}
    if suite:
        frame = pd.DataFrame(columns, index=list(parts), dtype="float64")
        judged = {o.expect.settings["column"]: o.success for o in validate(frame, suite, name=name)}
    return [
        Outcome(
            finding.expect,
            judged.get(f"{number:03d}", True),
            finding.observed,
            finding.examples,
            tuple(parts[i] for i in finding.outside()),
        )
        for number, finding in enumerate(findings)
    ]


def _comparable(value: float | None, finding: Finding) -> float | None:
    """Great Expectations takes NaN for a missing value: one that was measured lies beyond every bound."""
    if value is None or not math.isnan(value):
        return value
    return -math.inf if finding.low is not None else math.inf


def table_check(asset: str, table: str) -> dg.AssetChecksDefinition:
    """The asset check that holds ``table`` of ``asset`` against its suite."""
    return versions_check(
        asset,
        f"{table}_table",
        f"Great Expectations over the {table} table: {len(SUITES[asset, table])} expectations.",
        lambda store, versions: check_table(store, asset, table, versions),
    )


def versions_check(
    asset: str, name: str, description: str, judge_versions: Callable[[Store, Mapping[str, str]], dg.AssetCheckResult]
) -> dg.AssetChecksDefinition:
    """A blocking check over what a run made of ``asset``: it is given partition → manifest hash."""
    partitions = CRAWL_BATCHES if registry.get(asset).partitioned else None

    @dg.asset_check(asset=asset, name=name, description=description, blocking=True, partitions_def=partitions)
    def check(context: dg.AssetCheckExecutionContext, lake: dg.ResourceParam[Any]) -> dg.AssetCheckResult:
        store = lake.store()
        with one_line(asset):
            versions = made_batches(store, asset, batches_in_run(context) if partitions is not None else [WHOLE])
            result = judge_versions(store, versions)
        # A run over many batches has one result for all of them, and Dagster then names none.
        return result.with_metadata({**result.metadata, "partitions": dg.MetadataValue.json(list(versions))})

    return check


def check_table(store: Store, asset: str, table: str, versions: Mapping[str, str]) -> dg.AssetCheckResult:
    """Hold a table against its suite in the partitions of ``versions`` (partition → manifest hash)."""
    summary = table_summary.summarise(store, asset, table, list(versions), SUITES[asset, table])
    if not summary.parts:
        if (asset, table) not in OPTIONAL:
            raise dg.Failure(f"{asset}: no table '{table}' to check; materialise {asset} first", allow_retries=False)
        return dg.AssetCheckResult(passed=True, description="not asked for: the stage wrote no such table")
    outcomes = judge(summary.findings, summary.parts, name=f"{asset}.{table}")
    page = data_docs.publish(store, asset, f"{table}_table", versions, summary.rows, outcomes)
    return to_result(outcomes, rows=summary.rows, page=page)


def made_batches(store: Store, asset: str, wanted: Sequence[str]) -> dict[str, str]:
    """Partition → manifest hash, of those ``wanted`` that have been materialised."""
    found = {partition: manifest.read(store, asset, partition) for partition in wanted}
    return {partition: made.hash for partition, made in found.items() if made is not None}


@contextlib.contextmanager
def one_line(asset: str) -> Iterator[None]:
    """Turns what a person can mend into a failure of one line that is not tried again."""
    try:
        yield
    except UserError as error:
        text = str(type(error)(error.what, where=error.where or asset, todo=error.todo))
        raise dg.Failure(text, allow_retries=False) from error


def to_result(outcomes: Sequence[Outcome], *, rows: int, page: str = "") -> dg.AssetCheckResult:
    """Outcomes as one asset check result: counts, examples, and where the page with all of it lies."""
    failed = [o for o in outcomes if not o.success]
    blocking = [o for o in failed if o.expect.severity == "error"]
    records = [
        dg.TableRecord(
            {
                "expectation": o.expect.kind,
                "column": o.expect.about,
                "severity": o.expect.severity,
                "passed": o.success,
                "observed": show(o.observed),
                "examples": ", ".join(o.examples),
            }
        )
        for o in outcomes
    ]
    said = "; ".join(
        f"{o.expect.kind} on {o.expect.about or 'the table'}: {show(o.observed)}"
        + (f" (e.g. {', '.join(o.examples[:3])})" if o.examples else "")
        for o in sorted(failed, key=lambda o: o.expect.severity)
    )
    metadata: dict[str, Any] = {"rows": rows, "expectations": dg.MetadataValue.table(records)}
    if failed:
        metadata["failed"] = dg.MetadataValue.json([o.to_plain() for o in failed])
    if page:
        metadata["data_docs"] = dg.MetadataValue.path(page)
    return dg.AssetCheckResult(
        passed=not failed,
        severity=dg.AssetCheckSeverity.ERROR if blocking or not failed else dg.AssetCheckSeverity.WARN,
        description=said or f"{len(outcomes)} expectations met on {rows} rows",
        metadata=metadata,
    )
