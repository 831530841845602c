"""Whether the data gates passed, as the orchestrator has it on record."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg
import pytest

from assets import gate_results


@dg.asset
def made() -> dg.MaterializeResult:
    return dg.MaterializeResult(metadata={"computed": RUN["computed"]})


@dg.asset_check(asset=made, blocking=True)
def gate() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=RUN["passed"], severity=RUN["severity"], description="three rows are wrong")


RUN = {"computed": True, "passed": True, "severity": dg.AssetCheckSeverity.ERROR}
KEY = dg.AssetCheckKey(dg.AssetKey("made"), "gate")


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as one:
        yield one


def run(instance: dg.DagsterInstance, *things: object, **settings: object) -> list[str]:
    RUN.update({"computed": True, "passed": True, "severity": dg.AssetCheckSeverity.ERROR, **settings})
    dg.materialize(list(things), instance=instance, raise_on_error=False)
    return gate_results.not_passed(instance, [KEY])


def test_a_gate_that_passed_after_its_data_was_made_is_passed(instance: dg.DagsterInstance) -> None:
    assert run(instance, made, gate) == []


def test_a_gate_that_failed_says_what_it_said(instance: dg.DagsterInstance) -> None:
    assert run(instance, made, gate, passed=False) == ["made:gate (three rows are wrong)"]


def test_a_warning_is_not_a_refusal(instance: dg.DagsterInstance) -> None:
    assert run(instance, made, gate, passed=False, severity=dg.AssetCheckSeverity.WARN) == []


def test_a_gate_that_was_never_made_has_not_passed(instance: dg.DagsterInstance) -> None:
    assert run(instance, made) == ["made:gate (never made)"]


def test_a_gate_older_than_its_data_has_not_passed(instance: dg.DagsterInstance) -> None:
    run(instance, made, gate)
    assert run(instance, made, computed=False) == [], "nothing was computed: it is the same data"
    assert run(instance, made, computed=True) == ["made:gate (made before the present data)"]


def test_every_blocking_check_before_the_model_is_asked() -> None:
    stages = gate_results.upstream("registered_model")
    assert {"raw_crawl", "curated_lvd", "evaluation_metrics"} <= stages
    assert "curation_report" not in stages
    keys = {key.to_user_string() for key in gate_results.check_keys(stages)}
    assert any(key.startswith("filtered_set:") for key in keys)
    assert not any(key.startswith(("registered_model:", "curation_report:")) for key in keys)
