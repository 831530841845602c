"""A check a protocol: whole where every score lies in its interval and the model itself was scored."""

from __future__ import annotations

from typing import Any

import dagster as dg

from assets.evaluation_metrics import PROTOCOLS, protocol_checks, verdict
from assets.promotion import metric_name
from dinov2_core.evaluate import protocols


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
