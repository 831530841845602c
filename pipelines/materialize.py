"""``python -m pipelines.materialize ASSET …``: the same Dagster code as the UI's button, in this process.

It is what ``dvc.yaml`` calls, and the demo too: runs are recorded in the Dagster instance (``DAGSTER_HOME``), so they
show in the UI. Errors that a person can mend end in one line and exit code 1.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg

from assets.factory import VERIFY
from assets.partitions import CRAWL_BATCHES
from dinov2_core.errors import UserError
from dinov2_core.stages import registry
from pipelines import versions
from pipelines.all_batches import end_killed_runs, open_pool, range_tags, this_process
from pipelines.definitions import build_defs
from pipelines.resources.lake import Lake

INSTANCE_FILE = Path(__file__).resolve().parents[1] / "infra" / "dagster.yaml"


@contextmanager
def instance() -> Iterator[dg.DagsterInstance]:
    """The Dagster instance of ``DAGSTER_HOME`` (made with ``infra/dagster.yaml`` where new), or an ephemeral one."""
    home = os.environ.get("DAGSTER_HOME")
    if not home:
        with tempfile.TemporaryDirectory() as folder, dg.DagsterInstance.ephemeral(folder) as one:
            yield one
        return
    Path(home).mkdir(parents=True, exist_ok=True)
    settings = Path(home) / "dagster.yaml"
    if not settings.exists():
        settings.write_text(INSTANCE_FILE.read_text())
    with dg.DagsterInstance.get() as one:
        yield one


def execute(
    job: str,
    *,
    on: dg.DagsterInstance,
    partition: str | None = None,
    selection: Sequence[str] | None = None,
    tags: dict[str, str] | None = None,
    definitions: dg.Definitions | None = None,
) -> Any:
    """Run a job in this process and return Dagster's result; failures are in it, not raised."""
    defs = definitions or build_defs()
    end_killed_runs(on)
    open_pool(on)
    tags = {**(tags or {}), **this_process()}
    if partition:
        on.add_dynamic_partitions(str(CRAWL_BATCHES.name), [partition])
    else:
        # Executing in this process bypasses the jobs' executor, which would do the same.
        tags = {**tags, **range_tags(on, Lake.from_environment(), selection or registry.STAGES)}
    return defs.resolve_job_def(job).execute_in_process(
        instance=on,
        partition_key=partition,
        asset_selection=[dg.AssetKey(name) for name in selection] if selection else None,
        tags=tags,
        run_config={"loggers": {"console": {}}},
        raise_on_error=False,
    )


def failures(result: Any) -> list[str]:
    """One line for each failed step and each failed blocking check of a run; or why it failed outside of its steps."""
    lines = []
    for event in result.all_events:
        if event.is_step_failure:
            error = event.step_failure_data.error
            cause = error.cause or error
            lines.append(f"{event.step_key}: {cause.message.strip()}".replace("dagster._core.errors.", ""))
        elif event.event_type is dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            check = event.asset_check_evaluation_data
            if not check.passed and check.severity is dg.AssetCheckSeverity.ERROR:
                lines.append(
                    f"{check.asset_key.to_user_string()}: check {check.check_name} failed: {check.description}"
                )
    if not lines and not result.success:
        ends = [event for event in result.all_events if event.event_type is dg.DagsterEventType.RUN_FAILURE]
        lines = [_reason(event) for event in ends] or ["the run failed, and does not say why"]
    return lines


def _reason(event: Any) -> str:
    data = event.event_specific_data
    error = getattr(data, "error", None)
    return f"the run failed outside of its steps: {(error or event).message.strip()}"


def main(arguments: Sequence[str] | None = None, definitions: dg.Definitions | None = None) -> int:
    """Materialise the named assets in one run."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.materialize", description=__doc__)
    parser.add_argument("assets", nargs="+", metavar="ASSET", help=", ".join(registry.STAGES))
    parser.add_argument("--partition", help="one crawl batch; all batches not up to date where left out")
    options = parser.parse_args(arguments)
    try:
        for name in options.assets:
            registry.get(name)
        with instance() as on:
            result = execute(
                "full_pipeline",
                on=on,
                partition=options.partition,
                selection=options.assets,
                tags={VERIFY: "asked for by name"},
                definitions=definitions,
            )
            problems = failures(result)
            versions.record(Lake.from_environment(), options.assets)
    except UserError as error:
        problems = [str(error)]
    for line in problems:
        print(f"error: {line}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
