"""The stage ``pretrained_checkpoint``: DINOv2 pretraining on the curated set, then the high-resolution stage if asked.

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
from dinov2_core.train.initial import Network, fitted
from dinov2_core.train.recipe import EfficiencyConfig, Recipe, override
from dinov2_core.train.trainer import Trained


@dataclass(frozen=True)
class HighResolution:
    """The stage at a larger size (``recipes.high_resolution``); ``base_lr`` 0 takes a tenth of the recipe's."""

    size: int = 518
    steps: int = 10_000
    base_lr: float = 0.0


@dataclass(frozen=True)
class Params:
    """``overrides``: dotted settings of the recipe. ``prepared_size``: see ``training.train_on``.

    ``high_resolution`` is off where it is left out. It starts from the averaged network with its heads and with a fresh
    optimiser, whose moments at the smaller size say little about the larger one.
    """

    recipe: str = "demo"
    overrides: Mapping[str, Any] = field(default_factory=dict)
    high_resolution: HighResolution | None = None
    prepared_size: int = 0
    log_every: int = 10
    checkpoint_every: int = stage.efficiency(100)
    workers: int = stage.efficiency(-1)
    efficiency: EfficiencyConfig = stage.efficiency(EfficiencyConfig())


def run(run: StageRun) -> dict[str, Any]:
    """Train on the packed set."""
    params: Params = run.params
    recipe = override(recipes.get(params.recipe), params.overrides)
    trained, counts = _train(run, recipe)
    if params.high_resolution is not None:
        large = params.high_resolution
        before = Network(
            dict(trained.objective.average.state_dict()), recipe.model, recipe.dino_head, recipe.ibot_head, run.where
        )
        recipe = recipes.high_resolution(recipe, large.size, large.steps, large.base_lr or None)
        names = {"part": "high_resolution", "tracked_as": "high_resolution"}
        trained, counts = _train(run, recipe, initial=fitted(before, recipe), **names)
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


def _train(run: StageRun, recipe: Recipe, **rest: Any) -> tuple[Trained, dict[str, int]]:
    return training.train_on(
        run,
        recipe,
        run.read("curated_lvd", "packed", ["image_id", "shard", "offset", "length"]),
        prepared_size=run.params.prepared_size,
        checkpoint_every=run.params.checkpoint_every,
        log_every=run.params.log_every,
        workers=run.params.workers,
        efficiency=run.params.efficiency,
        **rest,
    )
