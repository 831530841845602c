"""SIGKILL inside every real asset, at one to five points each; the same commands go on and end like an undisturbed run.

Where and how is in ``killing.py``. Then the flywheel, on the champion that came out of it.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import dagster as dg
import pytest
import yaml

from dinov2_core.stages import registry
from dinov2_core.storage import TEMPORARY
from pipelines.all_batches import PROCESS
from pipelines.demo import web
from tests.pipelines.tiny import Tiny

pytestmark = pytest.mark.slow

CLIENT = "mlflow.tracking.client:MlflowClient"
FIRST, SECOND, LAST = "2026-01", "2026-02", "2026-03"


def no_data(stage: str, batch: str = "all") -> list[Any]:
    """Its first file is written whole and has no name yet."""
    return ["before", f"{stage}/{batch}/", 1]


def no_manifest(stage: str, batch: str = "all") -> list[Any]:
    """All of its data is there, and it does not count as made yet."""
    return ["before", f"{stage}/{batch}/manifest.json", 1]


PLAN: list[tuple[list[str], list[Any]]] = [
    (
        ["raw_crawl", "filtered_set", "copy_embeddings"],
        [no_data("raw_crawl", LAST), no_manifest("filtered_set", LAST), no_data("copy_embeddings", SECOND)],
    ),
    (["benchmark_sets", "benchmark_edges"], [no_manifest("benchmark_sets"), no_data("benchmark_edges", SECOND)]),
    (["copy_edges", "deduplicated_set"], [no_manifest("copy_edges", LAST), no_data("deduplicated_set")]),
    (
        ["seed_sets", "preliminary_encoder", "seed_embeddings"],
        [no_data("seed_sets"), ["told", "preliminary_encoder", 1], no_manifest("seed_embeddings")],
    ),
    (
        ["embeddings", "clusters", "curated_lvd"],
        [no_manifest("embeddings", SECOND), no_data("clusters"), no_manifest("curated_lvd")],
    ),
    (
        ["pretrained_checkpoint", "distilled_checkpoints", "evaluation_metrics"],
        [
            ["told", "pretrained_checkpoint", 1],
            ["after", "pretrained_checkpoint/all/manifest.json", 1],
            no_manifest("distilled_checkpoints"),
            ["called", f"{CLIENT}.log_text", 1],
        ],
    ),
    (
        ["registered_model"],
        [
            ["called", f"{CLIENT}._create_logged_model", 1],
            ["called", "mlflow.pyfunc:log_model", 1],
            ["called", f"{CLIENT}.create_model_version", 1],
            ["called", f"{CLIENT}.set_registered_model_alias", 1],
            ["called", f"{CLIENT}.create_model_version", 1],  # the entry that makes it champion
        ],
    ),
    (["curation_report"], [no_manifest("curation_report")]),
]
KILLED = sum(len(points) for _, points in PLAN)


@dataclass(frozen=True)
class Killed:
    """A run that was killed inside every asset: its places, one line for each of its processes, what it ended with."""

    tiny: Tiny
    said: list[str]
    manifests: dict[str, str]
    files: set[str]
    tracked: dict[str, Any]


def files_of(tiny: Tiny) -> set[str]:
    """All files of all stages but what a killed writer left under a temporary name."""
    found = {p.relative_to(tiny.data).as_posix() for p in tiny.data.rglob("*") if p.is_file()}
    return {name for name in found if name.partition("/")[0] in registry.STAGES and TEMPORARY not in name}


def tracked_in(tiny: Tiny) -> dict[str, Any]:
    """What the tracker has: every run and version by its own name, told apart by how often it is there."""
    ours = "select r.run_uuid from runs r where r.lifecycle_stage = 'active'"
    with sqlite3.connect(tiny.folder / "mlflow.db") as db:

        def rows(query: str) -> Counter[Any]:
            return Counter(db.execute(query).fetchall())

        return {
            "runs": rows(
                "select r.name, s.value, f.value, r.status from runs r join tags s on s.run_uuid = r.run_uuid and "
                "s.key = 'stage' join tags f on f.run_uuid = r.run_uuid and f.key = 'fingerprint' "
                "where r.lifecycle_stage = 'active'"
            ),
            "all runs": rows(f"select count(*) from ({ours})"),
            "steps": rows(
                "select r.name, m.key, m.step from metrics m join runs r on r.run_uuid = m.run_uuid "
                "where m.key not like 'system/%'"
            ),
            "inputs": rows("select source_type, destination_type, count(*) from inputs group by 1, 2"),
            "logged models": rows("select name, status from logged_models where lifecycle_stage = 'active'"),
            "scores": rows("select metric_name, count(*) from logged_model_metrics group by 1"),
            "versions": rows("select name, version from model_versions where current_stage != 'Deleted_Internal'"),
            "aliases": rows("select name, alias, version from registered_model_aliases"),
            "manifests": rows("select name, version, value from model_version_tags where key = 'manifest'"),
        }


@pytest.fixture(scope="module")
def killed(finished: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Killed:
    tiny = Tiny(tmp_path_factory.mktemp("inside") / "killed").prepare()
    # Two batches are there: their pictures need not be looked at once more.
    for name in ("world", ".manifests", *(f"{s}/{b}" for s in ("raw_crawl", "filtered_set") for b in (FIRST, SECOND))):
        shutil.copytree(finished.data / name, tiny.data / name)
    hosts = yaml.safe_load((tiny.folder / "params.yaml").read_text())["raw_crawl"]["hosts"]
    env = {**tiny.env, "DINOV2_WORKERS": "-1", "OMP_NUM_THREADS": "1"}
    with web.serve(tiny.data / "world" / "site.parquet", int(hosts["*"].rpartition(":")[2])):
        ended = subprocess.run(
            [sys.executable, "-m", "tests.pipelines.killing"],
            input=json.dumps(PLAN),
            cwd=tiny.folder,
            env=env,
            capture_output=True,
            text=True,
            timeout=1200,
            check=False,
        )
    assert ended.returncode == 0, f"{ended.stdout}\n{ended.stderr[-4000:]}"
    return Killed(tiny, ended.stdout.splitlines(), tiny.manifests(), files_of(tiny), tracked_in(tiny))


def test_every_asset_was_killed_and_the_same_command_ended_well(killed: Killed) -> None:
    assert len(killed.said) == KILLED + len(PLAN)
    assert Counter(line.rsplit(" ", 1)[1] for line in killed.said) == {"-9": KILLED, "0": len(PLAN)}
    assert {name for assets, _ in PLAN for name in assets} == set(registry.STAGES)
    assert all(len(points) >= len(assets) for assets, points in PLAN), "a point inside each"


def test_it_ends_with_the_manifests_and_the_files_of_an_undisturbed_run(killed: Killed, finished: Tiny) -> None:
    assert killed.manifests == finished.manifests()
    assert killed.files == files_of(finished), "nothing double, nothing left over"


def test_the_tracker_has_one_of_each_and_every_step_once(killed: Killed, finished: Tiny) -> None:
    undisturbed = tracked_in(finished)
    for kind, found in killed.tracked.items():
        assert found == undisturbed[kind], kind
    assert set(killed.tracked["steps"].values()) == {1}
    assert {alias for _, alias, _ in killed.tracked["aliases"]} == {"candidate", "champion"}


def test_every_run_has_ended_and_every_asset_names_its_present_data(killed: Killed) -> None:
    with dg.DagsterInstance.from_config(str(killed.tiny.folder / "dagster")) as instance:
        runs = instance.get_runs()
        assert Counter(run.status for run in runs) == {
            dg.DagsterRunStatus.FAILURE: KILLED,
            dg.DagsterRunStatus.SUCCESS: len(PLAN),
        }
        assert all(PROCESS in run.tags for run in runs)
        assert instance.event_log_storage.get_concurrency_info("accelerator").active_slot_count == 0
        for name, spec in registry.STAGES.items():
            event = instance.get_latest_materialization_event(dg.AssetKey(name))
            assert event is not None, name
            assert event.asset_materialization is not None
            if not spec.partitioned:
                (made,) = hashes(killed, [f"{name}/all"])
                tags = event.asset_materialization.tags or {}
                assert tags["dagster/data_version"] == made, name


def hashes(killed: Killed, keys: Iterable[str]) -> list[str]:
    import hashlib

    return [hashlib.sha256(killed.manifests[key].encode()).hexdigest() for key in keys]
