"""The stage ``pretrained_checkpoint``: DINOv2 pretraining on the curated set.

Writes the teacher's backbone (``teacher-….safetensors``), the whole state with both heads and the optimiser
(``state-….safetensors``), the recipe and the history.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dinov2_core import stage
from dinov2_core.stage import StageRun
from dinov2_core.stages import training
from dinov2_core.train import recipes
from dinov2_core.train.recipe import override


@dataclass(frozen=True)
class Params:
    """``overrides``: dotted settings of the recipe. ``prepared_size``: see ``training.train_on``."""

    recipe: str = "demo"
    overrides: Mapping[str, Any] = field(default_factory=dict)
    prepared_size: int = 0
    log_every: int = 10
    checkpoint_every: int = stage.efficiency(100)


def run(run: StageRun) -> dict[str, Any]:
    """Train on the packed set."""
    params: Params = run.params
    recipe = override(recipes.get(params.recipe), params.overrides)
    rows = run.read("curated_lvd", "packed", ["image_id", "shard", "offset", "length"]).to_pylist()
    trained, counts = training.train_on(
        run,
        recipe,
        sorted(rows, key=lambda row: row["image_id"]),
        prepared_size=params.prepared_size,
        checkpoint_every=params.checkpoint_every,
        log_every=params.log_every,
    )
    backbone = trained.objective.average["backbone"]
    training.write_backbone(run, "teacher", backbone, recipe)
    training.write_state(run, trained, recipe)
    training.write_history(run, trained)
    return {
        **counts,
        "steps": recipe.steps,
        "batch": recipe.batch,
        "parameters": sum(p.numel() for p in backbone.parameters()),
        **training.last_values(trained),
    }
