"""Runs that name no batch, and what killed ones leave."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from dinov2_core.errors import UserError
from pipelines import all_batches
from pipelines.resources.lake import Lake


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral(str(tmp_path)) as one:
        yield one


def lake(folder: Path, *batches: str) -> Lake:
    for name in batches:
        (folder / "data" / "sources" / name).mkdir(parents=True)
        (folder / "data" / "sources" / name / "urls.txt").write_text("http://a.example/x.png\n")
    (folder / "params.yaml").write_text("{}\n")
    return Lake(data_root=str(folder / "data"), params_file=str(folder / "params.yaml"))


def test_a_run_that_names_no_batch_covers_all(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    tags = all_batches.range_tags(instance, lake(tmp_path, "b1", "b2", "b3"), ["raw_crawl"])
    assert set(tags.values()) == {"b1", "b3"}
    assert instance.get_dynamic_partitions("crawl_batches") == ["b1", "b2", "b3"]


def test_a_batch_that_was_registered_out_of_order_is_covered_too(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    instance.add_dynamic_partitions("crawl_batches", ["b2"])
    tags = all_batches.range_tags(instance, lake(tmp_path, "b1", "b2", "b3"), ["raw_crawl"])
    known = list(instance.get_dynamic_partitions("crawl_batches"))
    first, last = tags.values()
    assert set(known[known.index(first) : known.index(last) + 1]) == {"b1", "b2", "b3"}


def test_stages_without_batches_need_none(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    assert all_batches.range_tags(instance, lake(tmp_path), ["seed_sets"]) == {}


def test_no_batch_at_all_says_where_to_put_one(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    empty = lake(tmp_path)
    (tmp_path / "data" / "sources").mkdir(parents=True)
    with pytest.raises(UserError, match=r"raw_crawl.*sources"):
        all_batches.range_tags(instance, empty, ["raw_crawl"])


def test_a_run_whose_process_is_gone_is_ended_and_a_living_one_is_left(instance: dg.DagsterInstance) -> None:
    job = dg.GraphDefinition(name="nothing").to_job()
    me = all_batches.this_process()[all_batches.PROCESS]
    host = me.rpartition(":")[0]
    gone, alive = (
        instance.create_run_for_job(job, tags={all_batches.PROCESS: tag}, status=dg.DagsterRunStatus.STARTED).run_id
        for tag in (f"{host}:999999999", me)
    )
    all_batches.end_killed_runs(instance)
    assert instance.get_run_by_id(gone).status is dg.DagsterRunStatus.FAILURE  # type: ignore[union-attr]
    assert instance.get_run_by_id(alive).status is dg.DagsterRunStatus.STARTED  # type: ignore[union-attr]


def test_a_run_that_ends_while_it_is_looked_at_is_not_called_killed(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = dg.GraphDefinition(name="nothing").to_job()
    host = all_batches.this_process()[all_batches.PROCESS].rpartition(":")[0]
    tags = {all_batches.PROCESS: f"{host}:999999999"}
    run = instance.create_run_for_job(job, tags=tags, status=dg.DagsterRunStatus.STARTED)

    def ends(pid: str) -> None:
        instance.report_dagster_event(dg.DagsterEvent("PIPELINE_SUCCESS", "nothing"), run.run_id)

    monkeypatch.setattr(all_batches, "_started", ends)
    all_batches.end_killed_runs(instance)
    assert instance.get_run_by_id(run.run_id).status is dg.DagsterRunStatus.SUCCESS  # type: ignore[union-attr]
