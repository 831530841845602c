"""The stage ``preliminary_encoder``: a small ViT trained on the seeds: the loop starts with nothing downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dinov2_core import stage
from dinov2_core.stage import StageRun
from dinov2_core.stages import training
from dinov2_core.train import recipes
from dinov2_core.train.recipe import EfficiencyConfig, override


@dataclass(frozen=True)
class Params:
    """``overrides``: dotted settings of the recipe. ``prepared_size``: see ``training.train_on``."""

    recipe: str = "demo"
    overrides: Mapping[str, Any] = field(default_factory=lambda: {"steps": 120, "optim.warmup": 20})
    prepared_size: int = 0
    log_every: int = 10
    checkpoint_every: int = stage.efficiency(100)
    workers: int = stage.efficiency(-1)
    efficiency: EfficiencyConfig = stage.efficiency(EfficiencyConfig())


def run(run: StageRun) -> dict[str, Any]:
    """Train on every seed image, each once; write the teacher's backbone."""
    params: Params = run.params
    recipe = override(recipes.get(params.recipe), params.overrides)
    columns = ["image_id", "shard", "offset", "length"]
    trained, counts = training.train_on(
        run,
        recipe,
        run.read("seed_sets", "labelled", columns),
        prepared_size=params.prepared_size,
        checkpoint_every=params.checkpoint_every,
        log_every=params.log_every,
        workers=params.workers,
        efficiency=params.efficiency,
    )
    training.write_backbone(run, "encoder", trained.objective.average["backbone"], recipe)
    training.write_history(run, trained)
    return {**counts, "steps": recipe.steps, "dim": recipe.model.dim, **training.last_values(trained)}
