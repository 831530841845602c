"""Fixtures for tests that run the toy pipeline inside this process, on a Dagster instance of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dinov2_core.stages import registry
from pipelines import all_batches
from pipelines.all_batches import range_tags
from pipelines.definitions import build_defs
from pipelines.jobs import adopt_champion, full_pipeline, recurate
from pipelines.resources.alerts import Alerts
from pipelines.resources.engine import Engine
from pipelines.resources.lake import Lake
from tests import toy_pipeline


@dataclass(frozen=True)
class Toy:
    """The toy pipeline below ``folder``, and the instance that its runs are recorded in."""

    folder: Path
    instance: dg.DagsterInstance
    lake: Lake
    defs: dg.Definitions

    def run(self, job: str = "recurate", assets: Sequence[str] = (), **tags: str) -> Any:
        """Run a job, or some assets of it; over every batch where the tags name none."""
        if not any("partition" in tag for tag in tags):
            tags = {**tags, **range_tags(self.instance, self.lake, list(toy_pipeline.STAGES))}
        return self.defs.resolve_job_def(job).execute_in_process(
            instance=self.instance,
            tags=tags,
            raise_on_error=False,
            asset_selection=[dg.AssetKey(name) for name in assets] or None,
        )

    def made(self, result: Any) -> set[str]:
        """``asset`` or ``asset/partition`` of what a run computed, and did not merely find up to date."""
        events = [e.materialization for e in result.all_events if e.is_step_materialization]
        computed = [m for m in events if m.metadata["computed"].value] if events else []
        return {m.asset_key.to_user_string() + (f"/{m.partition}" if m.partition else "") for m in computed}


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Toy]:
    monkeypatch.setattr(registry, "STAGES", toy_pipeline.STAGES)
    lake = toy_pipeline.lake(tmp_path)
    monkeypatch.setattr(all_batches.Lake, "from_environment", classmethod(lambda cls: lake))
    with dg.DagsterInstance.ephemeral(str(tmp_path)) as instance:
        defs = build_defs(
            resources={"lake": lake, "engine": Engine(workers=-1), "alerts": Alerts(pause_seconds=0)},
            assets=toy_pipeline.assets(),
            jobs=(full_pipeline, recurate, adopt_champion),
        )
        yield Toy(tmp_path, instance, lake, defs)
