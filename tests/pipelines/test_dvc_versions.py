"""Versions of the data in a checkout: brought back, computed once whoever asks, compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dinov2_core import adopted_encoder, gc, kept
from dinov2_core.manifest import Manifest
from dinov2_core.storage import Store
from pipelines.adoption import adopt_champion
from pipelines.resources.lake import Lake
from pipelines.resources.tracking import Tracking
from tests import toy_pipeline
from tests.pipelines.toy_checkout import NAMES, Checkout

pytestmark = pytest.mark.slow
CLEAN = "Data and pipelines are up to date."


@pytest.fixture(scope="module")
def two_versions(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """``v1`` by Dagster; ``v2``, of which one setting differs, by DVC. The checkout is at ``v2``."""
    checkout = Checkout(tmp_path_factory.mktemp("checkout")).begin()
    checkout.dagster()
    checkout.keep("v1")
    made = checkout.manifests()
    before = checkout.calls()
    assert before == 3 * 6, "three shards of two crawled batches, their embeddings, the seeds and the sum"
    checkout.settings({"seed_embeddings": {"encoder": "another"}})
    said = checkout.dvc("repro")
    for name in ("raw_crawl", "embeddings"):
        assert f"Stage '{name}' didn't change, skipping" in said, "what Dagster made"
    assert checkout.calls() == before + 3 * 2, "the seeds and the sum"
    checkout.keep("v2")
    now = checkout.manifests()
    assert {k for k in now if now[k] != made[k]} == {"seed_embeddings/all", "curated_lvd/all"}
    (checkout.folder / "v1.json").write_text(json.dumps(made))
    return checkout


def test_an_older_version_comes_back_and_the_assets_see_it(two_versions: Checkout) -> None:
    newest, before = two_versions.manifests(), two_versions.calls()
    two_versions.git("checkout", "-q", "v1")
    two_versions.dvc("checkout", "--quiet")
    assert two_versions.manifests() == json.loads((two_versions.folder / "v1.json").read_text())
    assert two_versions.dagster().count("up to date") == 2 * 2 + 2
    assert two_versions.calls() == before, "nothing was computed again"
    assert CLEAN in two_versions.dvc("status"), "and Dagster left it as DVC knows it"
    assert two_versions.git("status", "--porcelain", "--untracked-files=no") == ""
    two_versions.git("checkout", "-q", "main")
    two_versions.dvc("checkout", "--quiet")
    assert two_versions.manifests() == newest
    assert two_versions.dagster("seed_embeddings", "curated_lvd").count("up to date") == 2, "what DVC made"
    assert two_versions.calls() == before


def test_what_dagster_made_dvc_finds_up_to_date_and_the_names_are_the_same(two_versions: Checkout) -> None:
    toy_pipeline.put(two_versions.folder, "b3", "3\n")
    before = two_versions.calls()
    two_versions.dagster()
    assert two_versions.calls() == before + 3 * 3, "the new batch, its embeddings and the sum"
    assert CLEAN in two_versions.dvc("status")
    assert "Data and pipelines are up to date" in two_versions.dvc("repro")
    two_versions.keep("v3")
    store = Store(str(two_versions.folder / "data"))
    for key, text in two_versions.manifests().items():
        stage, partition = key.split("/")
        body = json.loads((two_versions.folder / "metrics" / f"{stage}.json").read_text())
        assert len(body["manifest"][partition]) == 64
        known = Store(store.root).read_bytes(f".manifests/{body['manifest'][partition]}.json")
        assert known.decode() == text, "one name: of the file, in git, and in the data root"


def test_two_versions_are_compared_by_settings_and_by_numbers(two_versions: Checkout) -> None:
    (row,) = [r for r in two_versions.dvc("params", "diff", "v1", "v2").splitlines() if "seed_embeddings" in r]
    assert row.split()[-2:] == ["champion", "another"]
    said = two_versions.dvc("metrics", "diff", "v1", "v2", "--json")
    changed = json.loads(said)
    assert set(changed) == {"metrics/seed_embeddings.json", "metrics/curated_lvd.json"}
    one = changed["metrics/curated_lvd.json"]["manifest.all"]
    assert len(one["old"]) == len(one["new"]) == 64
    if "v3" in two_versions.git("tag"):
        grown = json.loads(two_versions.dvc("metrics", "diff", "v2", "v3", "--json"))
        assert grown["metrics/raw_crawl.json"]["counts.images"]["diff"] == 3


def test_gc_keeps_what_the_checkouts_commits_name(two_versions: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dinov2_core.stages.registry.STAGES", toy_pipeline.STAGES)
    store = Store(str(two_versions.folder / "data"))
    named = kept.committed(two_versions.folder) or []
    assert {one.stage for one in named} == set(NAMES)
    far = 1e12
    assert gc.plan(store, named, far).files == 0, "every version is a tag's"
    planned = gc.plan(store, [], far)
    assert {one.place[0] for one in planned.garbage} == {"seed_embeddings", "curated_lvd"}


def test_a_manifest_of_the_past_is_found_by_its_name(two_versions: Checkout) -> None:
    store = Store(str(two_versions.folder / "data"))
    for text in json.loads((two_versions.folder / "v1.json").read_text()).values():
        body = json.loads(text)
        one = Manifest(**{**body, "files": ()})
        assert [p for p in store.find(".manifests") if store.read_bytes(p).decode() == text], one.key


def test_the_folder_of_a_version_holds_nothing_of_locks_or_names(two_versions: Checkout) -> None:
    for name in NAMES:
        hidden = list((Path(two_versions.folder) / "data" / name).rglob(".*"))
        assert hidden == []


def adopt(checkout: Checkout, version: str, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The flywheel's job in the checkout, with weights of a line and a registry that knows them."""
    weights.write_text(f"weights of {version}")
    with monkeypatch.context() as patched:
        patched.chdir(checkout.folder)
        patched.setattr("dinov2_core.stages.registry.STAGES", toy_pipeline.STAGES)
        patched.setattr("dinov2_core.model.weights.from_bytes", lambda data, where: None)
        patched.setattr("pipelines.evaluate.resolve", lambda uri, tracking: str(weights))
        patched.setattr("pipelines.adoption._scale", lambda store, data, version: 1.0)
        done = adopt_champion.execute_in_process(
            resources={"lake": Lake(), "tracking": Tracking(uri="sqlite:///nobody-asks.db")},
            run_config={"ops": {"adopt": {"config": {"most_hours": 1.0, "version": version}}}},
        )
    assert done.success


def test_an_adopted_encoder_is_followed_by_dvc_as_by_dagster_and_comes_back_with_its_version(
    two_versions: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_versions.settings({})
    two_versions.dagster()
    before, calls = two_versions.manifests(), two_versions.calls()
    adopt(two_versions, "7", tmp_path / "weights", monkeypatch)
    said = two_versions.dvc("status")
    assert {line.rstrip(":") for line in said.splitlines() if not line.startswith(("\t", " "))} == {
        "embeddings",
        "seed_embeddings",
    }
    said = two_versions.dvc("repro")
    for name in ("adopted_encoder", "raw_crawl"):
        assert f"Stage '{name}' didn't change, skipping" in said
    made = two_versions.manifests()
    followed = {key for key in made if key.startswith(("embeddings/", "seed_embeddings/", "curated_lvd/"))}
    assert {key for key in made if made[key] != before[key]} == followed
    assert two_versions.calls() == calls + 3 * len(followed)
    assert two_versions.dagster().count("up to date") == len(made), "what DVC made"
    assert CLEAN in two_versions.dvc("status")
    two_versions.keep("seven")

    adopt(two_versions, "8", tmp_path / "weights", monkeypatch)
    two_versions.dagster()
    assert CLEAN in two_versions.dvc("status"), "what Dagster made"
    assert two_versions.calls() == calls + 2 * 3 * len(followed)
    two_versions.keep("eight")

    two_versions.git("checkout", "-q", "seven")
    two_versions.dvc("checkout", "--quiet")
    found = adopted_encoder.read(Store(str(two_versions.folder / "data")))
    assert found is not None
    assert found.version == "7"
    assert two_versions.manifests() == made
    assert two_versions.dagster().count("up to date") == len(made)
    assert two_versions.calls() == calls + 2 * 3 * len(followed), "nothing was computed again"
