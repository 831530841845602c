"""A check a protocol: whole where every score lies in its interval and the model itself was scored."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg

from assets.evaluation_metrics import PROTOCOLS, attach, protocol_checks, verdict
from assets.promotion import metric_name
from dinov2_core import manifest, tables
from dinov2_core.evaluate import protocols
from dinov2_core.manifest import WHOLE, Manifest
from dinov2_core.storage import Store


def row(**about: Any) -> dict[str, Any]:
    plain = {"dataset": "cifar10", "protocol": "knn", "model": "trained", "metric": "accuracy"}
    return {**plain, "value": 0.5, "low": 0.4, "high": 0.6, **about}


def test_every_protocol_that_the_stage_can_run_has_a_check() -> None:
    labelled = {name for name in protocols.PROTOCOLS if protocols.get(name).needs == "labelled"}
    assert labelled <= set(PROTOCOLS)
    names = {key.name for check in protocol_checks for key in check.check_keys}
    assert names == {f"{name.replace('-', '_')}_scores" for name in PROTOCOLS}


def test_checks_are_found_by_the_pipeline() -> None:
    import assets

    found = dg.load_asset_checks_from_package_module(assets)
    names = {key.name for check in found for key in check.check_keys}
    assert {f"{name.replace('-', '_')}_scores" for name in PROTOCOLS} <= names


def test_a_score_outside_its_interval_and_a_model_without_score_do_not_pass() -> None:
    assert verdict("knn", [row()]).passed
    assert verdict("ood", []).passed
    assert not verdict("knn", [row(value=0.7)]).passed
    assert not verdict("knn", [row(model="pixels")]).passed


def test_names_of_metrics_have_only_characters_that_the_tracker_takes() -> None:
    assert metric_name(row(metric="k=10 accuracy")) == "cifar10.knn.trained.k_10 accuracy"


class Recorder:
    """An MLflow client that keeps what it is told."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.files: dict[str, bytes] = {}

    def log_text(self, _run: str, text: str, path: str) -> None:
        self.texts[path] = text

    def set_tag(self, _run: str, _key: str, _value: str) -> None:
        pass

    def log_artifacts(self, _run: str, folder: str, target: str) -> None:
        self.files |= {f"{target}/{p.name}": p.read_bytes() for p in Path(folder).iterdir()}


def test_table_and_pictures_are_artifacts_of_the_trainings_run(tmp_path: Path) -> None:
    store, client = Store(str(tmp_path)), Recorder()
    scores = tables.from_rows([row(count=9)], tables.METRICS)
    files = [store.write_table("evaluation_metrics/all/metrics-x-00000.parquet", scores)]
    files.append(store.write_bytes("evaluation_metrics/all/figure-x-00000.png", b"drawn"))
    listed = [{"path": files[1].path, "dataset": "cifar10", "name": "knn k=20 confusion", "caption": ""}]
    files.append(store.write_bytes("evaluation_metrics/all/figures-x-00000.json", json.dumps(listed).encode()))
    made = Manifest("evaluation_metrics", WHOLE, "f", {}, {}, tuple(files), {})
    manifest.write(store, Manifest("pretrained_checkpoint", WHOLE, "t", {}, {}, (), {}))
    run = SimpleNamespace(info=SimpleNamespace(run_id="r"), data=SimpleNamespace(tags={}))
    tracking = SimpleNamespace(client=lambda: client, find_run=lambda *_: run)
    told = attach(None, SimpleNamespace(store=lambda: store), tracking, made)  # type: ignore[arg-type]
    assert list(client.texts) == [told["table"]]
    assert client.files == {f"{told['figures']}/00-cifar10-knn-k-20-confusion.png": b"drawn"}
