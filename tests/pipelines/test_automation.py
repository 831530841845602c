"""What runs by itself once a week, what counts as overdue, who is told, and what is tried again."""

from __future__ import annotations

import dataclasses
import datetime as dt
import threading
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from assets.factory import RETRY
from pipelines import automation, sensors
from pipelines.definitions import build_defs
from pipelines.jobs import CURATION, TRAINING, WRITES
from pipelines.resources.alerts import secret
from tests import toy_pipeline
from tests.pipelines.hook import Hook, alerts
from tests.pipelines.toy import Toy

ROOT = Path(__file__).resolve().parents[2]
SUNDAY = dt.datetime(2026, 11, 22, 12, tzinfo=dt.UTC)


def requested(toy: Toy, at: dt.datetime, cursor: Any = None) -> tuple[set[str], Any]:
    """What the conditions ask for at a time: ``asset`` or ``asset/partition``; and the cursor for the next look."""
    result = dg.evaluate_automation_conditions(defs=toy.defs, instance=toy.instance, evaluation_time=at, cursor=cursor)
    graph = toy.defs.resolve_asset_graph()
    names = {
        key.to_user_string() + (f"/{partition}" if partition else "")
        for key in graph.materializable_asset_keys
        for partition in result.get_requested_partitions(key)
    }
    return names, result.cursor


def test_once_a_week_what_has_changed_is_made_again_and_only_that(toy: Toy) -> None:
    for name in ("b1", "b2"):
        toy_pipeline.put(toy.folder, name, "1\n")
    assert toy.run().success
    day = dt.timedelta(days=1)
    names, cursor = requested(toy, SUNDAY - 7 * day)
    names, cursor = requested(toy, SUNDAY, cursor)
    assert names == set(), "a week has passed, and nothing has changed"
    toy_pipeline.put(toy.folder, "b1", "1\n5\n")
    toy_pipeline.put(toy.folder, "b3", "3\n")
    assert toy.run("full_pipeline", ["raw_crawl"], **{"dagster/partition": "b1"}).success
    toy.instance.add_dynamic_partitions("crawl_batches", ["b3"])
    names, cursor = requested(toy, SUNDAY + dt.timedelta(hours=1), cursor)
    assert "raw_crawl/b3" not in names, "not before Monday"
    names, cursor = requested(toy, SUNDAY + day, cursor)
    assert names - {"embeddings/b1"} == {"raw_crawl/b3", "embeddings/b3"}, "not the whole before its parts"
    assert toy.run("full_pipeline", ["raw_crawl", "embeddings"]).success
    names, cursor = requested(toy, SUNDAY + 2 * day, cursor)
    assert names == {"curated_lvd"}


def test_conditions_and_deadlines_stand_on_the_curation_and_on_nothing_that_trains_for_release() -> None:
    graph = build_defs().resolve_asset_graph()
    automatic = {k.to_user_string() for k in graph.get_all_asset_keys() if graph.get(k).automation_condition}
    assert automatic == set(automation.curation())
    assert not automatic & {"pretrained_checkpoint", "distilled_checkpoints", "registered_model", "evaluation_metrics"}
    overdue = {k.to_user_string() for k in graph.get_all_asset_keys() if graph.get(k).freshness_policy_or_from_metadata}
    assert overdue == set(automation.FRESH)


def test_the_instance_retries_killed_runs_watches_them_and_lets_one_run_write(tmp_path: Path) -> None:
    settings = yaml.safe_load((ROOT / "infra/dagster.yaml").read_text())
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(settings))
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert (instance.run_retries_enabled, instance.run_retries_max_retries) == (True, 2)
        assert not instance.run_retries_retry_on_asset_or_op_failure, "assets have their own"
        assert instance.run_monitoring_enabled
        concurrency = instance.get_concurrency_config()
        assert concurrency.pool_config.default_pool_limit == 1
        assert concurrency.run_queue_config is not None
        limits = concurrency.run_queue_config.tag_concurrency_limits
        assert limits == [{"key": WRITES, "value": {"applyLimitPerUniqueValue": True}, "limit": 1}]
    assert settings["freshness"] == {"enabled": True}
    defs = build_defs()
    writes = {job: defs.resolve_job_def(job).tags.get(WRITES) for job in ("full_pipeline", "recurate", "pretrain")}
    assert writes == {"full_pipeline": CURATION[WRITES], "recurate": CURATION[WRITES], "pretrain": TRAINING[WRITES]}
    assert RETRY.max_retries == 2


def test_the_accelerator_takes_one_step_at_a_time(toy: Toy, tmp_path: Path) -> None:
    toy_pipeline.put(toy.folder, "b1", "1\n")
    (tmp_path / "home").mkdir()
    (tmp_path / "home/dagster.yaml").write_text((ROOT / "infra/dagster.yaml").read_text())
    done = threading.Event()
    with dg.DagsterInstance.from_config(str(tmp_path / "home")) as instance:
        storage = instance.event_log_storage
        storage.initialize_concurrency_limit_to_default("accelerator")
        assert storage.claim_concurrency_slot("accelerator", "another run", "its step").is_claimed

        def run() -> None:
            assert dataclasses.replace(toy, instance=instance).run().success
            done.set()

        thread = threading.Thread(target=run)
        thread.start()
        assert not done.wait(2), "it ran beside the step that has the accelerator"
        assert not toy_pipeline.calls(toy.folder)
        storage.free_concurrency_slots_for_run("another run")
        thread.join(60)
    assert done.is_set()


def test_an_alert_is_one_message_tried_again_where_the_server_is_at_fault(
    hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DINOV2_ALERT_WEBHOOK", hook.url)
    assert alerts().send("b7 failed")
    assert hook.got == [{"text": "b7 failed"}]
    hook.codes = [503, 429]
    assert alerts().send("again")
    assert len(hook.got) == 4
    hook.codes = [403]
    assert not alerts().send("refused")
    assert len(hook.got) == 5


@pytest.mark.parametrize("value", ["", "no address", "http://127.0.0.1:1/s3cr3t", "http://[s3cr3t", "file:///s3cr3t"])
def test_an_alert_that_cannot_be_sent_stops_nothing_and_never_says_the_address(
    value: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("DINOV2_ALERT_WEBHOOK", value)
    assert not alerts().send("x")
    assert "s3cr3t" not in caplog.text
    assert "s3cr3t" not in repr(alerts())


def test_a_secret_may_lie_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DINOV2_ALERT_WEBHOOK", raising=False)
    (tmp_path / "hook").write_text("https://example.test/x\n")
    monkeypatch.setenv("DINOV2_ALERT_WEBHOOK_FILE", str(tmp_path / "hook"))
    assert secret("DINOV2_ALERT_WEBHOOK") == "https://example.test/x"
    monkeypatch.setenv("DINOV2_ALERT_WEBHOOK", "https://example.test/y")
    assert secret("DINOV2_ALERT_WEBHOOK") == "https://example.test/y"


def test_a_failed_run_tells_its_steps_own_line_unless_it_is_tried_again(
    toy: Toy,
    hook: Hook,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DINOV2_ALERT_WEBHOOK", hook.url)
    toy_pipeline.put(toy.folder, "b1", "1\n")
    (toy.folder / "params.yaml").write_text("curated_lvd: {fail: the recipe names no set}\n")
    result = toy.run()
    assert not result.success

    def tell(**tags: str) -> None:
        toy.instance.add_run_tags(result.run_id, tags)
        failed = next(e for e in result.all_events if e.event_type is dg.DagsterEventType.RUN_FAILURE)
        context = dg.build_run_status_sensor_context(
            sensor_name="failed_runs",
            dagster_instance=toy.instance,
            dagster_run=toy.instance.get_run_by_id(result.run_id),
            dagster_event=failed,
        ).for_run_failure()
        sensors.failed_runs._run_status_sensor_fn(context, alerts=alerts())

    tell(**{"dagster/will_retry": "true"})
    assert hook.got == []
    tell(**{"dagster/will_retry": "false"})
    (message,) = hook.got
    assert message["text"].startswith("recurate failed")
    assert "curated_lvd: the recipe names no set" in message["text"]


def test_what_is_stale_is_shown_with_its_cause(toy: Toy) -> None:
    from tests.pipelines.test_sensors import stale

    toy_pipeline.put(toy.folder, "b1", "1\n")
    assert toy.run().success
    assert stale(toy, "curated_lvd") == []
    toy_pipeline.put(toy.folder, "b1", "1\n7\n")
    made = toy.defs.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=toy.instance, partition_key="b1", asset_selection=[dg.AssetKey("raw_crawl")], raise_on_error=False
    )
    assert made.success
    assert stale(toy, "embeddings", "b1") == ["has a new dependency data version: raw_crawl"]


def test_an_asset_that_is_asked_for_by_name_is_compared_with_its_checksums(toy: Toy) -> None:
    toy_pipeline.put(toy.folder, "b1", "1\n")
    assert toy.run().success
    (table, *_) = sorted((toy.folder / "data/curated_lvd/all").glob("*.parquet"))
    whole = table.read_bytes()
    table.write_bytes(bytes([*whole[:-1], whole[-1] ^ 1]))
    assert toy.made(toy.run()) == set(), "a job trusts what is there"
    by_name = toy.defs.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=toy.instance, asset_selection=[dg.AssetKey("curated_lvd")], raise_on_error=False
    )
    assert toy.made(by_name) == {"curated_lvd"}
    assert table.read_bytes() == whole
