"""New sources become batches and runs by themselves; another champion is proposed, and adopted only when asked."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.storage.tags import ASSET_PARTITION_RANGE_END_TAG, ASSET_PARTITION_RANGE_START_TAG

from dinov2_core import adopted_encoder
from dinov2_core.errors import UserError
from pipelines import cost, sensors, sources
from pipelines.adoption import ADOPTED
from pipelines.resources.alerts import Alerts
from tests import toy_pipeline
from tests.pipelines.toy import Toy

BATCHES = "crawl_batches"


def look(toy: Toy, cursor: str | None = None) -> tuple[Any, str | None]:
    """One tick of ``new_batches``: its result and the cursor afterwards. What it asks for is registered."""
    context = dg.build_sensor_context(instance=toy.instance, cursor=cursor, resources={"lake": toy.lake})
    result = sensors.new_batches(context)
    if isinstance(result, dg.SensorResult):
        for request in result.dynamic_partitions_requests or ():
            toy.instance.add_dynamic_partitions(BATCHES, list(request.partition_keys))
        return result, result.cursor
    return result, context.cursor


def asked(result: Any) -> tuple[str, str]:
    (request,) = result.run_requests
    return request.tags[ASSET_PARTITION_RANGE_START_TAG], request.tags[ASSET_PARTITION_RANGE_END_TAG]


def test_a_new_url_list_becomes_a_partition_and_a_run_once_it_stays_as_it_is(toy: Toy) -> None:
    toy_pipeline.put(toy.folder, "b1", "1\n")
    first, cursor = look(toy)
    assert isinstance(first, dg.SkipReason), "it may still be being uploaded"
    toy_pipeline.put(toy.folder, "b1", "1\n2\n")
    second, cursor = look(toy, cursor)
    assert isinstance(second, dg.SkipReason), "it has grown since"
    third, cursor = look(toy, cursor)
    assert asked(third) == ("b1", "b1")
    assert toy.instance.get_dynamic_partitions(BATCHES) == ["b1"]
    again, after = look(toy, cursor)
    assert isinstance(again, dg.SkipReason)
    assert after == cursor


def test_many_new_batches_are_one_run(toy: Toy) -> None:
    for number in range(5):
        toy_pipeline.put(toy.folder, f"b{number}", f"{number}\n")
    result, _ = look(toy, look(toy)[1])
    assert asked(result) == ("b0", "b4")


def test_the_run_that_is_asked_for_makes_the_new_batch_and_the_whole_and_nothing_else(toy: Toy) -> None:
    toy_pipeline.put(toy.folder, "b1", "1\n")
    toy_pipeline.put(toy.folder, "b2", "2\n")
    result, cursor = look(toy, look(toy)[1])
    made = toy.run(**dict(result.run_requests[0].tags))
    assert made.success
    before = toy_pipeline.calls(toy.folder)
    toy_pipeline.put(toy.folder, "b3", "3\n")
    result, cursor = look(toy, look(toy, cursor)[1])
    made = toy.run(**dict(result.run_requests[0].tags))
    assert made.success
    assert toy.made(made) == {"raw_crawl/b3", "embeddings/b3", "curated_lvd"}
    new = set(toy_pipeline.calls(toy.folder)) - set(before)
    assert {name.rsplit("-", 2)[0] for name in new} == {"raw_crawl-b3", "embeddings-b3", "curated_lvd-all"}


def test_the_same_look_asks_for_the_same_run_and_a_state_that_returns_for_another(toy: Toy) -> None:
    toy_pipeline.put(toy.folder, "b1", "1\n")
    cursor = look(toy)[1]
    first, after = look(toy, cursor)
    same, _ = look(toy, cursor)
    assert same.run_requests[0].run_key == first.run_requests[0].run_key, "a daemon killed in between asks once more"
    path = toy.folder / "data/sources/b1/urls.txt"
    stamp = path.stat().st_mtime_ns
    path.write_text("1\n2\n")
    changed, after = look(toy, look(toy, after)[1])
    path.write_text("1\n")
    import os

    os.utime(path, ns=(stamp, stamp))
    back, _ = look(toy, look(toy, after)[1])
    keys = {r.run_requests[0].run_key for r in (first, changed, back)}
    assert len(keys) == 3, "the run for the first state was long ago; the data is of the second"


def test_what_sorts_after_a_changed_batch_is_covered_and_so_is_one_left_half_made(toy: Toy) -> None:
    known = ["b1", "b2", "b3", "b9"]
    assert sources.covering(["b2"], known) == ("b2", "b9")
    assert sources.covering(["b9"], known) == ("b9", "b9")
    assert sources.covering(["b2"], ["b3", "b1", "b2"]) == ("b3", "b2"), "a range follows the order of registration"
    for name in ("b1", "b2"):
        toy_pipeline.put(toy.folder, name, "1\n")
    cursor = look(toy, look(toy)[1])[1]
    assert toy.run().success
    (toy.folder / "data/embeddings/b1/manifest.json").unlink()
    assert sources.unfinished(toy.lake.store(), ["b1", "b2"]) == ["b1"]
    toy_pipeline.put(toy.folder, "b3", "3\n")
    result, _ = look(toy, look(toy, cursor)[1])
    assert asked(result) == ("b1", "b3")


def test_files_that_are_no_batch_start_nothing_and_are_named(toy: Toy) -> None:
    (toy.folder / "data/sources/loose.warc.gz").write_bytes(b"x")
    (toy.folder / "data/sources/.hidden").mkdir()
    (toy.folder / "data/sources/.hidden/urls.txt").write_text("1\n")
    (toy.folder / "data/sources/b1").mkdir()
    (toy.folder / "data/sources/b1/.tmp-urls.txt").write_text("1\n")
    result, _ = look(toy, look(toy)[1])
    assert isinstance(result, dg.SkipReason)
    assert "loose.warc.gz" in str(result.skip_message)


def test_a_prefix_that_cannot_be_read_is_a_reason_and_not_a_crash(toy: Toy) -> None:
    (toy.folder / "data/sources").rmdir()
    result, _ = look(toy)
    assert "check raw_crawl.sources" in str(result.skip_message)


class Registry:
    """A tracker whose champion is what the test says."""

    model_name = "dinov2"

    def __init__(self) -> None:
        self.version: str | None = None

    def client(self) -> None:
        return None

    def champion(self, client: None) -> Any:
        return None if self.version is None else SimpleNamespace(version=self.version)


class Sent(list[str]):
    """Alerts that were sent."""

    def send(self, text: str) -> bool:
        self.append(text)
        return True


def watch(toy: Toy, registry: Registry, sent: Sent, cursor: str | None = None) -> Any:
    """One tick of ``champion_changed``; what it observed is recorded."""
    context = dg.build_sensor_context(instance=toy.instance, cursor=cursor)
    result = sensors.champion_changed._raw_fn(context, lake=toy.lake, tracking=registry, alerts=sent)
    if isinstance(result, dg.SensorResult):
        for event in result.asset_events:
            toy.instance.report_runless_asset_event(event)
    return result


def stale(toy: Toy, name: str, partition: str | None = None) -> list[str]:
    """Why the web interface shows an asset as stale: reasons with what caused them; empty where it is fresh."""
    graph = toy.defs.resolve_asset_graph()
    from dagster._core.loader import LoadingContextForTest

    resolver = CachingStaleStatusResolver(toy.instance, graph, LoadingContextForTest(toy.instance))
    key = dg.AssetKey(name)
    causes = resolver.get_stale_causes(key, partition)
    assert (resolver.get_status(key, partition) == StaleStatus.STALE) == bool(causes)
    return [f"{c.reason}: {c.dependency_asset_key and c.dependency_asset_key.to_user_string()}" for c in causes]


def test_another_champion_marks_the_embeddings_stale_and_proposes_but_starts_nothing(toy: Toy) -> None:
    toy_pipeline.put(toy.folder, "b1", "1\n")
    assert toy.run().success
    assert stale(toy, "embeddings", "b1") == []
    registry, sent = Registry(), Sent()
    assert isinstance(watch(toy, registry, sent), dg.SkipReason), "there is no champion"
    registry.version = "7"
    before = toy_pipeline.manifests(toy.folder)
    result = watch(toy, registry, sent)
    assert not result.run_requests
    assert "version 7 is champion" in sent[0]
    assert "adopt_champion" in sent[0]
    assert "3 images in 1 batches, about " in sent[0]
    assert stale(toy, "embeddings", "b1") == ["has a new dependency data version: champion"]
    assert stale(toy, "seed_embeddings") == ["has a new dependency data version: champion"]
    assert isinstance(watch(toy, registry, sent, cursor="7"), dg.SkipReason)
    assert len(sent) == 1
    assert toy.run().success
    assert toy_pipeline.manifests(toy.folder) == before, "a run in between computes nothing because of it"
    assert stale(toy, "embeddings", "b1") == ["has a new dependency data version: champion"], "and hides nothing"


def test_an_adopted_champion_embeds_and_curates_and_is_stale_no_more(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    toy_pipeline.put(toy.folder, "b1", "1\n")
    assert toy.run().success
    registry = Registry()
    registry.version = "7"
    watch(toy, registry, Sent())
    monkeypatch.setattr("dinov2_core.model.weights.from_bytes", lambda data, where: None)
    adopted_encoder.adopt(toy.lake.store(), b"weights of seven", "7")
    made = toy.run()
    assert toy.made(made) == {"embeddings/b1", "seed_embeddings", "curated_lvd"}
    assert stale(toy, "embeddings", "b1") == []
    assert stale(toy, "seed_embeddings") == []


def test_only_a_run_that_adopted_something_is_followed_by_a_run_over_all(toy: Toy) -> None:
    def after(**tags: str) -> Any:
        run = toy.instance.create_run_for_job(toy.defs.resolve_job_def("adopt_champion"), tags=tags)
        event = dg.DagsterEvent("PIPELINE_SUCCESS", "adopt_champion")
        context = dg.build_run_status_sensor_context(
            sensor_name="encoder_adopted", dagster_instance=toy.instance, dagster_run=run, dagster_event=event
        )
        return sensors.encoder_adopted(context)

    assert isinstance(after(), dg.SkipReason)
    request = after(**{ADOPTED: "7"})
    assert request.run_key.startswith("adopted-")
    assert not {ASSET_PARTITION_RANGE_START_TAG, "dagster/partition"} & set(request.tags), "every batch"


def test_the_estimate_is_of_what_another_encoder_changes_in_times_that_were_measured(toy: Toy) -> None:
    assert cost.affected() == ["embeddings", "seed_embeddings", "curated_lvd"]
    empty = cost.estimate(toy.instance, toy.lake.store())
    assert (empty.images, empty.seconds, empty.unknown) == (0, 0.0, tuple(cost.affected()))
    for name in ("b1", "b2"):
        toy_pipeline.put(toy.folder, name, "1\n")
    assert toy.run().success
    once = cost.estimate(toy.instance, toy.lake.store())
    assert (once.images, once.batches, once.unknown) == (6, 2, ())
    assert once.seconds > 0
    assert cost.estimate(toy.instance, toy.lake.store(), scale=100).seconds > 10 * once.seconds


def test_durations_read_as_people_say_them() -> None:
    said = [str(cost.Estimate(5_000, 2, seconds, ())) for seconds in (90, 600, 7 * 3600, 4 * 86400)]
    assert [s.split("about ")[1] for s in said] == ["90 seconds", "10.0 minutes", "7.0 hours", "4.0 days"]


def test_a_dead_process_is_told_apart_from_one_that_got_its_number(toy: Toy) -> None:
    from pipelines.all_batches import EXECUTES, STARTED, end_killed_runs, this_process

    job = toy.defs.resolve_job_def("recurate")
    me = this_process()

    def status(**tags: str) -> Any:
        run = toy.instance.create_run_for_job(job, tags={**me, **tags}, status=dg.DagsterRunStatus.STARTED)
        end_killed_runs(toy.instance)
        return toy.instance.get_run_by_id(run.run_id).status  # type: ignore[union-attr]

    assert status() is dg.DagsterRunStatus.STARTED
    assert status(**{STARTED: "1"}) is dg.DagsterRunStatus.FAILURE, "another process has this number now"
    inherited = {EXECUTES: "the run that was killed", STARTED: "1"}
    assert status(**inherited) is dg.DagsterRunStatus.STARTED, "tags of the run that this one tries again"


def test_the_sensors_that_start_work_are_off_until_switched_on(monkeypatch: pytest.MonkeyPatch) -> None:
    on = {s.name for s in sensors.SENSORS if s.default_status is dg.DefaultSensorStatus.RUNNING}
    assert on == {"encoder_adopted", "failed_runs", "killed_runs", "overdue_assets", "warning_checks"}


def test_an_encoder_is_adopted_whole_or_not_at_all(tmp_path: Path) -> None:
    from dinov2_core.storage import Store

    store = Store(str(tmp_path))
    with pytest.raises(UserError, match="version 3: not a safetensors file"):
        adopted_encoder.adopt(store, b"no weights at all", "3")
    assert adopted_encoder.read(store) is None
    (tmp_path / "encoders").mkdir()
    (tmp_path / "encoders/adopted.json").write_text(json.dumps({"version": "3", "sha256": "ab"}))
    with pytest.raises(UserError, match=r"ab\.safetensors are missing — adopt the encoder again"):
        adopted_encoder.read(store)


def test_alerts_are_a_resource_of_the_location(toy: Toy) -> None:
    assert isinstance((toy.defs.resources or {})["alerts"], Alerts)
