"""Dagster and MLflow on a real PostgreSQL server: runs, partitions, pools, versions and aliases; two runs at once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import yaml
from sqlalchemy.engine import make_url

from pipelines.resources.tracking import Tracking
from tests import toy_pipeline
from tests.pipelines import postgres
from tests.pipelines.tiny import ROOT
from tests.security.planted import files_with

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(postgres.programs() is None, reason="no PostgreSQL server (initdb) on this machine"),
]
RUN = """
import sys
from tests.toy_location import defs
from pipelines import materialize
with materialize.instance() as on:
    result = materialize.execute("recurate", on=on, definitions=defs, partition=sys.argv[1] or None)
    print(type(on.run_storage).__name__, materialize.failures(result))
    sys.exit(0 if result.success else 1)
"""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with postgres.server() as found:
        yield found


@pytest.fixture(scope="module")
def site(url: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose Dagster home and tracker are on the server."""
    folder = tmp_path_factory.mktemp("site")
    toy_pipeline.lake(folder)
    (folder / "home").mkdir()
    (folder / "home/dagster.yaml").write_text((ROOT / "infra/dagster-postgres.yaml").read_text())
    for name in ("b1", "b2"):
        toy_pipeline.put(folder, name, "1\n2\n")
    return folder


def start(site: Path, url: str, batch: str) -> subprocess.Popen[str]:
    env = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "DAGSTER_HOME": str(site / "home"),
        "DAGSTER_POSTGRES_URL": f"{url}/dagster",
        "MLFLOW_TRACKING_URI": f"{url}/mlflow",
        "DATA_ROOT": str(site / "data"),
        "DINOV2_PARAMS": str(site / "params.yaml"),
        "DINOV2_WORKERS": "-1",
    }
    command = [sys.executable, "-W", "ignore", "-c", RUN, batch]
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_runs_of_everything_at_once_are_recorded_and_compute_each_partition_once(
    site: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", f"{url}/dagster")
    # As the runbook says: two that start on an empty database would both make its tables.
    with dg.DagsterInstance.from_config(str(site / "home")):
        pass
    ended = [process.communicate(timeout=300) for process in [start(site, url, "b1"), start(site, url, "b1")]]
    assert all("PostgresRunStorage []" in out for out, _ in ended), ended
    calls = toy_pipeline.calls(site)
    assert len(calls) == 4 * toy_pipeline.SHARDS
    assert all(call.endswith("-0") for call in calls), "nothing twice"
    out, err = start(site, url, "").communicate(timeout=300)
    assert "PostgresRunStorage []" in out, err[-2000:]
    with dg.DagsterInstance.from_config(str(site / "home")) as instance:
        runs = instance.get_runs()
        assert [run.status for run in runs] == [dg.DagsterRunStatus.SUCCESS] * 3, [
            (run.tags, [e.user_message or e.message for e in instance.all_logs(run.run_id)]) for run in runs
        ]
        assert set(instance.get_dynamic_partitions("crawl_batches")) == {"b1", "b2"}
        made = instance.get_latest_materialization_event(dg.AssetKey("curated_lvd"))
        assert made is not None
        assert instance.event_log_storage.get_concurrency_info("accelerator").active_slot_count == 0
        assert instance.event_log_storage.get_concurrency_info("accelerator").slot_count == 1


def test_the_tracker_keeps_runs_and_versions_on_the_server(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tracking = Tracking(uri=f"{url}/mlflow")
    with tracking.training("pretrained_checkpoint", "f1", {"lr": 0.1}, {"curated_lvd/all": "ab" * 32}, {}) as tracker:
        assert tracker is not None
        tracker(0, {"loss": 3.0})
        tracker(1, {"loss": 2.0})
    client = tracking.client()
    run = tracking.find_run(client, "pretrained_checkpoint", "f1")
    assert run is not None
    assert [m.value for m in client.get_metric_history(run.info.run_id, "loss")] == [3.0, 2.0]
    client.create_registered_model("dinov2")
    version = client.create_model_version("dinov2", source=f"runs:/{run.info.run_id}/model", run_id=run.info.run_id)
    client.set_registered_model_alias("dinov2", "champion", version.version)
    champion = tracking.champion(client)
    assert champion is not None
    assert str(champion.version) == str(version.version)


def test_the_one_boxs_own_addresses_lead_to_the_server(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    server = make_url(url)
    compose = yaml.safe_load((ROOT / "infra/compose/compose.yaml").read_text())
    (given,) = [one for one in compose["services"]["mlflow"]["command"] if one.startswith("--backend-store-uri=")]
    uri = make_url(given.partition("=")[2]).set(host=server.host, port=server.port)
    monkeypatch.setenv("PGPASSWORD", postgres.PASSWORD)
    assert mlflow.MlflowClient(uri.render_as_string(hide_password=False)).search_experiments()
    text = (ROOT / "infra/compose/dagster.yaml").read_text()
    (tmp_path / "dagster.yaml").write_text(text.replace("port: 5432", f"port: {server.port}"))
    there = {"HOST": "127.0.0.1", "USERNAME": "dinov2", "PASSWORD": postgres.PASSWORD, "DB": "dagster"}
    for name, value in there.items():
        monkeypatch.setenv(f"DAGSTER_PG_{name}", value)
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert type(instance.run_storage).__name__ == "PostgresRunStorage"
        assert instance.get_runs_count() >= 0


def test_the_servers_password_is_nowhere_but_in_the_environment(site: Path) -> None:
    assert files_with(site, [postgres.PASSWORD]) == []


def test_both_instances_say_the_same_apart_from_where_they_store() -> None:
    sqlite, shared = (yaml.safe_load((ROOT / "infra" / name).read_text()) for name in INSTANCES)
    assert shared.pop("storage") == {"postgres": {"postgres_url": {"env": "DAGSTER_POSTGRES_URL"}}}
    assert sqlite == shared


INSTANCES = ("dagster.yaml", "dagster-postgres.yaml")
