"""From web pages to a registered model, on a tiny world: one undisturbed run, looked at from all sides."""

from __future__ import annotations

import json
import shutil
import sqlite3
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from dinov2_core import kept, manifest, story
from dinov2_core.stages import registry
from dinov2_core.storage import Store
from tests.pipelines.tiny import Tiny

pytestmark = pytest.mark.slow


@pytest.fixture
def copy(finished: Tiny, tmp_path: Path) -> Tiny:
    """A copy of the finished run that a test may change."""
    shutil.copytree(finished.folder, tmp_path / "copy")
    return Tiny(tmp_path / "copy")


def test_every_stage_has_a_manifest_and_every_file_it_lists(finished: Tiny) -> None:
    store = Store(str(finished.data))
    for name, spec in registry.STAGES.items():
        wanted = ["2026-01", "2026-02", "2026-03"] if spec.partitioned else ["all"]
        assert manifest.partitions(store, name) == wanted
        for partition in wanted:
            made = manifest.read(store, name, partition)
            assert made is not None
            for record in made.files:
                store.verify(record)


def test_the_table_names_every_stage_and_both_controls(finished: Tiny) -> None:
    said = (finished.folder / "stdout.txt").read_text()
    for name in registry.STAGES:
        assert name in said
    for word in ("recall", "precision", "pixels", "untrained", "report:", "make ui"):
        assert word in said


def test_the_second_run_computes_nothing_and_says_so(finished: Tiny) -> None:
    before = finished.manifests()
    started = time.monotonic()
    ended = finished.run(finished.command())
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert "nothing to compute" in ended.stderr
    assert time.monotonic() - started < 30
    assert finished.manifests() == before


def test_the_champion_loads_in_a_fresh_process(finished: Tiny) -> None:
    code = (
        "import mlflow, numpy as np, os\n"
        "mlflow.set_tracking_uri(os.environ['MLFLOW_TRACKING_URI'])\n"
        "version = mlflow.MlflowClient().search_model_versions(\"name = 'dinov2'\")[0]\n"
        "mlflow.MlflowClient().set_registered_model_alias('dinov2', 'champion', version.version)\n"
        "model = mlflow.pyfunc.load_model('models:/dinov2@champion')\n"
        "out = np.asarray(model.predict([np.zeros((40, 60, 3), np.uint8), np.full((32, 32, 3), 255, np.uint8)]))\n"
        "print(out.shape, np.linalg.norm(out, axis=1).round(3).tolist())\n"
    )
    ended = finished.run([sys.executable, "-c", code])
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert ended.stdout.strip().endswith("[1.0, 1.0]")


def test_trainings_are_runs_with_manifests_and_the_evaluation_hangs_on_the_model(finished: Tiny) -> None:
    store = Store(str(finished.data))
    curated = manifest.read(store, "curated_lvd")
    registered = manifest.read(store, "registered_model")
    assert curated is not None
    assert registered is not None
    with sqlite3.connect(finished.folder / "mlflow.db") as db:
        tags = {(k, v) for k, v in db.execute("select key, value from tags")}
        assert ("manifest.curated_lvd/all", curated.hash) in tags
        assert any(k == "dagster.run_id" for k, _ in tags)
        assert any(k == "git.commit" for k, _ in tags)
        steps = db.execute("select count(distinct step) from metrics where key = 'total'").fetchone()[0]
        assert steps >= 3
        named = {k for (k,) in db.execute("select metric_name from logged_model_metrics")}
        assert any("knn.trained" in k for k in named)
        versions = {(k, v) for k, v in db.execute("select key, value from model_version_tags")}
        assert ("manifest", registered.hash) in versions


def test_one_batch_by_the_ordinary_partition_tag(finished: Tiny) -> None:
    before = finished.manifests()
    tags = json.dumps({"dagster/partition": "2026-01"})
    ended = finished.run(
        [*job_execute("full_pipeline"), "--tags", tags],
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    assert finished.manifests() == before, "all was up to date: nothing may change"


def test_without_a_tag_all_batches_are_taken(finished: Tiny) -> None:
    ended = finished.run(job_execute("full_pipeline"))
    assert ended.returncode == 0, ended.stderr[-4000:]
    for batch in ("2026-01", "2026-02", "2026-03"):
        assert f"copy_edges/{batch}: up to date" in ended.stderr


def job_execute(job: str) -> list[str]:
    dagster = str(Path(sys.executable).with_name("dagster"))
    return [dagster, "job", "execute", "-m", "pipelines.definitions", "-j", job]


def test_a_corrupted_table_blocks_what_is_downstream(copy: Tiny) -> None:
    store = Store(str(copy.data))
    made = manifest.read(store, "filtered_set", "2026-01")
    assert made is not None
    part = made.table("verdicts")[0]
    table = store.read_table(part.path)
    column = table.schema.get_field_index("nsfw")
    broken = table.set_column(column, "nsfw", [[7.0] * table.num_rows]).cast(table.schema)
    pq.write_table(broken, store.full(part.path))
    # A new setting downstream, so that the next stage has something to do, if it is let.
    params = yaml.safe_load((copy.folder / "params.yaml").read_text())
    params["copy_edges"] = {"k": 32}
    (copy.folder / "params.yaml").write_text(yaml.safe_dump(params))
    before = copy.manifests()
    ended = copy.run(job_execute("full_pipeline"))
    assert ended.returncode != 0
    assert "verdicts_table" in ended.stderr
    after = copy.manifests()
    assert after["copy_edges/2026-01"] == before["copy_edges/2026-01"], "what is downstream must not have run"


def test_the_story_of_a_leaked_image_names_its_benchmark_picture(finished: Tiny) -> None:
    truth = pq.read_table(finished.data / "world" / "truth.parquet").to_pylist()
    leak = next(r for r in truth if r["kind"] == "leak")
    ended = finished.run(
        [str(Path(sys.executable).with_name("dinov2")), "why", leak["url"], "--root", str(finished.data)]
    )
    assert ended.returncode == 0, ended.stderr
    for word in ("raw_crawl[", "filtered_set[", "benchmark_edges["):
        assert word in ended.stdout


def test_from_the_champion_to_one_images_url_and_back_by_one_name(finished: Tiny) -> None:
    import dagster as dg
    import mlflow

    store = Store(str(finished.data))
    client = mlflow.MlflowClient(tracking_uri=finished.env["MLFLOW_TRACKING_URI"])
    version = client.search_model_versions("name = 'dinov2'")[0]
    registered = manifest.by_hash(store, version.tags["manifest"])
    assert registered is not None
    run = client.get_run(version.run_id)
    curated_name = run.data.tags["manifest.curated_lvd/all"]
    assert curated_name == registered.upstream["curated_lvd/all"], "the run and the model name the same data"
    assert curated_name[:36] in {i.dataset.digest for i in run.inputs.dataset_inputs}, "and so does the run's input"
    card = next(f for f in registered.files if f.path.endswith("card.md"))
    assert curated_name in store.read_bytes(card.path).decode(), "and the model's card"
    with dg.DagsterInstance.from_config(str(finished.folder / "dagster")) as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey("curated_lvd"))
        assert event is not None
        assert event.asset_materialization is not None
        assert event.asset_materialization.tags is not None
        assert event.asset_materialization.tags["dagster/data_version"] == curated_name, "and Dagster"

    curated = manifest.by_hash(store, curated_name)
    assert curated is not None
    images: dict[str, tuple[str, str]] = {}
    waiting, seen = [curated], set()
    while waiting:
        one = waiting.pop()
        for key, name in one.upstream.items():
            if name not in seen:
                seen.add(name)
                above = manifest.by_hash(store, name)
                assert above is not None, key
                waiting.append(above)
                for part in above.table("images") if above.stage == "raw_crawl" else []:
                    rows = store.read_table(part.path, ["image_id", "url"]).to_pylist()
                    images |= {r["image_id"]: (r["url"], name) for r in rows if r["image_id"]}
    packed = store.read_table(curated.table("packed")[0].path).to_pylist()
    row = next(r for r in packed if r["image_id"] in images)
    url, crawl_name = images[row["image_id"]]
    assert url.startswith("http://")

    # And back: from the URL to the models that have seen it.
    assert story.find_ids(store, url) == [row["image_id"]]
    holders = [manifest.by_hash(store, p.rsplit("/", 1)[-1].removesuffix(".json")) for p in store.find(manifest.KNOWN)]
    below = {crawl_name}
    for _ in registry.STAGES:
        below |= {m.hash for m in holders if m is not None and below & set(m.upstream.values())}
    found = [v for v in client.search_model_versions("name = 'dinov2'") if v.tags["manifest"] in below]
    assert version.version in {v.version for v in found}
    assert kept.pins(store)[f"dinov2-{version.version}"].hash == registered.hash, "which gc keeps"
