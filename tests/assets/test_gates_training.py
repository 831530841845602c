"""The check of a training's health, run as Dagster runs it: the recipe is found, each training is judged apart."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from assets.training_gates import health, training_check
from dinov2_core import config, tables
from dinov2_core.manifest import Manifest
from dinov2_core.storage import Store
from dinov2_core.train import recipes
from pipelines.resources.lake import Lake
from tests.gates import toy


def history(steps: int, prefix: str = "", **values: float) -> list[dict[str, Any]]:
    plain = {"total": 5.0, "target_entropy": 3.0, "feature_rank": 20.0, "prototypes_used": 0.2, "grad_norm.backbone": 2}
    every = [*range(0, steps - 1, 10), steps - 1]
    return [{"step": s, "name": prefix + n, "value": v} for s in every for n, v in {**plain, **values}.items()]


def trained(store: Store, *rows: dict[str, Any], stage: str = "pretrained_checkpoint", **recipe_steps: int) -> Manifest:
    """A stage that ships a history and, by name, recipes of so many steps."""
    files = {}
    for name, steps in recipe_steps.items():
        recipe = {"steps": steps, "dino_head": {"prototypes": 256}}
        files[f"{name}-f-00000.json"] = json.dumps(recipe).encode()
    table = tables.from_rows(list(rows), tables.HISTORY)
    params = {"recipe": "demo", "overrides": {"steps": 30}}
    return toy.write(store, stage, {"history": table}, files=files, params=params)


def test_the_trainings_of_a_stage_are_judged_each_by_its_own_recipe(store: Store) -> None:
    rows = [*history(31), *history(21, "vit_base.", feature_rank=1.0)]
    made = trained(store, *rows, stage="distilled_checkpoints", recipe=31, recipe_vit_base=21)
    found = health(store, made)
    assert set(found) == {"", "vit_base"}
    assert [f for f in found[""] if f.outside()] == []
    assert {f.expect.about for f in found["vit_base"] if f.outside()} == {"feature_rank"}


def test_without_a_recipe_of_its_own_a_stage_is_judged_by_its_settings(store: Store) -> None:
    found = health(store, trained(store, *history(30), stage="preliminary_encoder"))[""]
    assert [f for f in found if f.outside()] == []
    (entropy, *_) = [f for f in found if f.expect.about == "target_entropy"]
    prototypes = config.to_plain(recipes.get("demo"))["dino_head"]["prototypes"]
    assert entropy.values[0] == pytest.approx(3.0 / math.log(prototypes))


@pytest.mark.parametrize(
    ("values", "passed", "severity"),
    [
        ({}, True, dg.AssetCheckSeverity.ERROR),
        ({"target_entropy": 0.0}, False, dg.AssetCheckSeverity.ERROR),
        ({"prototypes_used": 3 / 256}, False, dg.AssetCheckSeverity.WARN),
    ],
)
def test_the_check_as_dagster_runs_it(
    tmp_path: Path, values: dict[str, float], passed: bool, severity: dg.AssetCheckSeverity
) -> None:
    (tmp_path / "params.yaml").write_text("{}")
    lake = Lake(data_root=str(tmp_path / "data"), params_file=str(tmp_path / "params.yaml"))
    trained(lake.store(), *history(31, **values), recipe=31)

    @dg.asset(name="pretrained_checkpoint")
    def made() -> None: ...

    @dg.asset(deps=[made])
    def evaluated() -> None: ...

    check = training_check("pretrained_checkpoint")
    ended = dg.materialize([made, check, evaluated], resources={"lake": lake}, raise_on_error=False)
    (evaluation,) = ended.get_asset_check_evaluations()
    assert evaluation.passed is passed
    assert evaluation.severity is severity
    went_on = {e.asset_key.to_user_string() for e in ended.get_asset_materialization_events() if e.asset_key}
    assert ("evaluated" in went_on) == (passed or severity is dg.AssetCheckSeverity.WARN)
    assert Path(evaluation.metadata["data_docs"].path).exists()
