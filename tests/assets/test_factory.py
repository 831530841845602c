"""What becomes of a step that fails: tried again after a fault, not after a mistake, and not when it is cancelled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.errors import DagsterExecutionInterruptedError

from assets import factory
from dinov2_core.errors import UserError
from dinov2_core.shard_map import InlineShardMap
from dinov2_core.stages import registry
from tests import toy_pipeline

STAGE = "seed_embeddings"


class Engine:
    """Fails with each of ``errors`` in turn, then works."""

    by_jobs = False

    def __init__(self, *errors: BaseException) -> None:
        self.errors, self.asked = list(errors), 0

    def shard_map(self) -> InlineShardMap:
        self.asked += 1
        if self.errors:
            raise self.errors.pop(0)
        return InlineShardMap()


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, *errors: BaseException) -> tuple[bool, int]:
    """``(whether the run succeeded, how often the stage was begun)``."""
    monkeypatch.setattr(registry, "STAGES", toy_pipeline.STAGES)
    monkeypatch.setattr(factory, "RETRY", dg.RetryPolicy(max_retries=2, delay=0))
    engine: Any = Engine(*errors)
    resources = {"lake": toy_pipeline.lake(folder), "engine": engine, "tracking": 0}
    with dg.DagsterInstance.ephemeral() as instance:
        asset = factory.stage_asset(STAGE)
        try:
            made = dg.materialize([asset], resources=resources, instance=instance, raise_on_error=False).success
        except (DagsterExecutionInterruptedError, KeyboardInterrupt):
            made = False
        return made, engine.asked


def test_a_fault_is_tried_again_and_a_fault_that_stays_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(tmp_path / "a", monkeypatch, OSError("the network"), OSError("the network")) == (True, 3)
    assert run(tmp_path / "b", monkeypatch, *[OSError("the network")] * 3) == (False, 3)


def test_a_mistake_of_the_user_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(tmp_path, monkeypatch, UserError("no such model")) == (False, 1)


def test_a_run_that_is_cancelled_does_not_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(tmp_path, monkeypatch, DagsterExecutionInterruptedError()) == (False, 1)
