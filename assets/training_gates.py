"""The check of a training's health, beside the asset that trained.

What is healthy is in ``dinov2_core/gates/training_health``; here the history and the recipe are found.
"""

import json
from typing import Any

# No `from __future__ import annotations` here: Dagster reads the annotations of assets as objects.
import dagster as dg

from assets import data_docs
from assets.gates import judge, one_line, to_result
from dinov2_core import manifest
from dinov2_core.gates import training_health
from dinov2_core.gates.expectation import Finding
from dinov2_core.manifest import Manifest
from dinov2_core.storage import Store


def training_check(asset: str) -> dg.AssetChecksDefinition:
    """The asset check on the history that ``asset`` ships: finite, not collapsed, gradients alive."""

    @dg.asset_check(
        asset=asset,
        name="training_health",
        description="Loss finite, teacher's targets neither one nor uniform, features of many directions, gradients.",
        blocking=True,
    )
    def check(context: dg.AssetCheckExecutionContext, lake: dg.ResourceParam[Any]) -> dg.AssetCheckResult:
        store = lake.store()
        with one_line(asset):
            made = manifest.read(store, asset)
            if made is None:
                raise dg.Failure(f"{asset} has not been materialised", allow_retries=False)
            named = [(f"{name}: {f.expect.about}", f) for name, fs in health(store, made).items() for f in fs]
            outcomes = judge([f for _, f in named], [asset], name=f"{asset}.training")
            rows = sum(record.rows or 0 for record in made.table("history"))
            page = data_docs.publish(store, asset, "training_health", {made.partition: made.hash}, rows, outcomes)
        return to_result(outcomes, rows=rows, page=page)

    return check


def health(store: Store, made: Manifest) -> dict[str, list[Finding]]:
    """Findings by training; a stage that trains several names the later ones, the first is ''."""
    rows = [row for record in made.table("history") for row in store.read_table(record.path).to_pylist()]
    history = training_health.series(rows)
    found = {}
    for prefix, recipe in _recipes(store, made).items():
        others = [p for p in _recipes(store, made) if p and p != prefix]
        own = {
            name.removeprefix(f"{prefix}." if prefix else ""): values
            for name, values in history.items()
            if (name.startswith(f"{prefix}.") if prefix else not name.startswith(tuple(f"{o}." for o in others)))
        }
        found[prefix] = training_health.findings(
            own, prototypes=int(recipe["dino_head"]["prototypes"]), steps=int(recipe["steps"])
        )
    return found


def _recipes(store: Store, made: Manifest) -> dict[str, dict[str, Any]]:
    """The recipe of each training of a stage, by the name that its rows begin with."""
    found = {}
    for record in made.files:
        stem = record.path.rsplit("/", 1)[-1].split("-", 1)[0]
        if stem.startswith("recipe") and record.path.endswith(".json"):
            found[stem.removeprefix("recipe").removeprefix("_")] = json.loads(store.read_bytes(record.path))
    return found or {"": _planned(made)}


def _planned(made: Manifest) -> dict[str, Any]:
    """The recipe that a stage's settings name, where it ships none."""
    from dinov2_core import config
    from dinov2_core.train import recipes
    from dinov2_core.train.recipe import override

    return config.to_plain(override(recipes.get(made.params["recipe"]), made.params["overrides"]))
