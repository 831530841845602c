"""A broken table stops what is downstream; a strange one only shows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pyarrow as pa
import pytest

from assets import data_docs, gates
from assets.gates import judge, validate
from dinov2_core.gates.expectation import Expect, Finding, error, warn
from dinov2_core.gates.table_summary import summarise
from dinov2_core.storage import Store
from pipelines.resources.lake import Lake
from tests.gates import toy

SUITE = (
    error("ExpectColumnValuesToNotBeNull", column="image_id"),
    error("ExpectColumnValuesToBeBetween", column="nsfw", min_value=0, max_value=1),
    warn("ExpectColumnMeanToBeBetween", column="nsfw", max_value=0.3),
)


def result_of(frame: pd.DataFrame) -> dg.AssetCheckResult:
    return gates.to_result(validate(frame, SUITE, name="t"), rows=len(frame))


def test_a_good_table_passes() -> None:
    result = result_of(pd.DataFrame({"image_id": ["a", "b"], "nsfw": [0.1, 0.2]}))
    assert result.passed
    assert result.description == "3 expectations met on 2 rows"


def test_an_error_expectation_fails_with_column_and_example() -> None:
    result = result_of(pd.DataFrame({"image_id": ["a", "b"], "nsfw": [0.1, -7.0]}))
    assert not result.passed
    assert result.severity is dg.AssetCheckSeverity.ERROR
    assert "ExpectColumnValuesToBeBetween on nsfw" in str(result.description)
    assert "-7.0" in str(result.description)


def test_a_warn_expectation_shows_and_does_not_block() -> None:
    result = result_of(pd.DataFrame({"image_id": ["a", "b"], "nsfw": [0.9, 0.9]}))
    assert not result.passed
    assert result.severity is dg.AssetCheckSeverity.WARN


def test_an_expectation_on_a_column_that_is_not_there_is_our_error() -> None:
    with pytest.raises(ValueError, match="could not be evaluated"):
        validate(pd.DataFrame({"other": [1]}), SUITE, name="t")


def test_embeddings_are_checked_by_their_norm(store: Any) -> None:
    table = pa.table(
        {
            "image_id": ["a", "b"],
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array([0.6, 0.8, 3.0, 4.0], pa.float16()), 2),
        }
    )
    toy.write(store, "embeddings", {"embeddings": table}, "b")
    norm = error("ExpectColumnValuesToBeBetween", column="norm", min_value=0.99, max_value=1.01)
    (found,) = summarise(store, "embeddings", "embeddings", ["b"], [norm]).findings
    assert found.observed == 1
    assert found.examples == ("b: 5.0",)


@pytest.mark.parametrize(
    ("values", "low", "high", "holds"),
    [
        ((0.0, 0.0), None, 0.0, True),
        ((0.0, 3.0), None, 0.0, False),
        ((None, 4.0), 1.0, 5.0, True),
        ((None, None), 1.0, 5.0, True),
        ((float("nan"),), None, 5.0, False),
        ((float("nan"),), 1.0, None, False),
        ((float("inf"),), 1.0, 5.0, False),
    ],
)
def test_what_was_measured_is_judged_by_its_bounds(values: Any, low: Any, high: Any, holds: bool) -> None:
    finding = Finding(Expect("ExpectAnything", {}), values, low, high, "seen", ("an example",))
    (outcome,) = judge([finding], [f"part {i}" for i in range(len(values))], name="t")
    assert outcome.success is holds
    assert (finding.outside() == []) is holds
    assert bool(outcome.parts) is not holds


def test_the_broken_part_is_named(store: Any) -> None:
    good, bad = (pa.table({"image_id": [toy.image(n)], "cluster": [n]}) for n in (1, -1))
    toy.write(store, "clusters", {"clusters": [good, bad, good]})
    rule = error("ExpectColumnValuesToBeBetween", column="cluster", min_value=0)
    summary = summarise(store, "clusters", "clusters", ["all"], [rule])
    (outcome,) = judge(summary.findings, summary.parts, name="t")
    assert outcome.parts == ("clusters/all/clusters-f-00001.parquet",)
    assert outcome.examples == (f"{toy.image(-1)}: -1",)


def test_a_corrupted_table_blocks_what_is_downstream(tmp_path: Any) -> None:
    """The same adapter inside a run: the check fails, the asset below is not materialised."""
    frames = {"nsfw": [0.5, 2.0]}

    @dg.asset
    def upper() -> None: ...

    @dg.asset_check(asset=upper, blocking=True)
    def gate() -> dg.AssetCheckResult:
        frame = pd.DataFrame({"image_id": ["a", "b"], **frames})
        return result_of(frame)

    @dg.asset(deps=[upper])
    def lower() -> None: ...

    def materialised() -> set[str]:
        ended = dg.materialize([upper, gate, lower], raise_on_error=False)
        return {e.asset_key.to_user_string() for e in ended.get_asset_materialization_events() if e.asset_key}

    assert materialised() == {"upper"}
    frames["nsfw"] = [0.9, 0.9]
    assert materialised() == {"upper", "lower"}, "a warning lets pass"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return toy.lake(Store(str(tmp_path_factory.mktemp("lake"))))


@pytest.fixture
def lake(sound: Store, tmp_path: Any) -> Lake:
    toy.copy(sound, tmp_path / "data")
    (tmp_path / "params.yaml").write_text("{}")
    return Lake(data_root=str(tmp_path / "data"), params_file=str(tmp_path / "params.yaml"))


def run_checks(lake: Lake, stage: str, *checks: Any, batch: str | None = None) -> Any:
    """The checks as Dagster runs them, after an asset that leaves the lake as it is."""

    @dg.asset(name=stage, partitions_def=gates.CRAWL_BATCHES if batch else None)
    def made() -> None: ...

    defs = dg.Definitions(assets=[made], asset_checks=list(checks), resources={"lake": lake})
    instance = dg.DagsterInstance.ephemeral()
    if batch:
        instance.add_dynamic_partitions(str(gates.CRAWL_BATCHES.name), [batch])
    job = defs.resolve_implicit_global_asset_job_def()
    return job.execute_in_process(instance=instance, partition_key=batch, raise_on_error=False)


def test_a_check_shows_counts_sample_ids_and_where_its_page_lies(lake: Lake) -> None:
    store = lake.store()
    toy.alter_rows(store, "clusters", "clusters", lambda rows: [{**r, "similarity": 7.0} for r in rows[:3]] + rows[3:])
    (evaluation,) = run_checks(
        lake, "clusters", gates.table_check("clusters", "clusters")
    ).get_asset_check_evaluations()
    assert not evaluation.passed
    assert evaluation.severity is dg.AssetCheckSeverity.ERROR
    (failed,) = evaluation.metadata["failed"].data
    assert failed["observed"] == "3"
    assert len(failed["examples"]) == 3
    assert re.fullmatch("[0-9a-f]{64}: 7.0", failed["examples"][0])
    assert evaluation.metadata["rows"].value == 10
    page = evaluation.metadata["data_docs"].path
    assert failed["examples"][0] in Path(page).read_text()
    assert "clusters: clusters_table" in store.read_bytes(f"{data_docs.FOLDER}/index.html").decode()


def test_a_check_of_one_batch_looks_at_that_batch_alone(lake: Lake) -> None:
    toy.alter_rows(lake.store(), "copy_edges", "edges", lambda rows: [{**rows[0], "similarity": -1.0}])
    check = gates.table_check("copy_edges", "edges")
    for batch, passed in zip(toy.BATCHES, (True, False), strict=True):
        (evaluation,) = run_checks(lake, "copy_edges", check, batch=batch).get_asset_check_evaluations()
        assert evaluation.passed is passed


def test_a_damaged_part_fails_in_one_line_that_names_it(lake: Lake) -> None:
    store = lake.store()
    store.write_bytes("clusters/all/clusters-f-00000.parquet", b"no table")
    ended = run_checks(lake, "clusters", gates.table_check("clusters", "clusters"))
    assert not ended.success
    (failure,) = [e for e in ended.all_events if e.is_step_failure]
    text = failure.step_failure_data.error.message
    assert "clusters/all/clusters-f-00000.parquet: not a readable table" in text
    assert "materialise the asset that wrote it again" in text
