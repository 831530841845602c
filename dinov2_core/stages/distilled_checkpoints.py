"""The stage ``distilled_checkpoints``: smaller students of the frozen teacher (paper, section 5).

The loop is pretraining's with the teacher and its heads frozen, an unmasked student without stochastic depth, and an
average of the student that is what ships.

The first student's files have the stems ``student``, ``state`` and ``recipe``, and it is the one that is evaluated;
those of the others end in ``_NAME``. A finished student's checkpoints stay until all are made, so a killed run repeats
none of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from dinov2_core import stage
from dinov2_core.stage import StageRun
from dinov2_core.stages import training
from dinov2_core.train import recipes
from dinov2_core.train.recipe import EfficiencyConfig, Recipe, override

SMALL: Mapping[str, Any] = {"model.dim": 64, "model.heads": 2, "steps": 150}
"""What turns the demo's recipe into its student's."""


@dataclass(frozen=True)
class Params:
    """``students``: of ``vit_small``, ``vit_base``, ``vit_large``, each trained by the paper's constants
    (``recipes.distil``); none makes one student by the teacher's recipe with :data:`SMALL`. ``overrides``: dotted
    settings on top, for all of them; given, they replace :data:`SMALL`. ``prepared_size``: see ``training.train_on``.
    """

    students: tuple[str, ...] = ()
    overrides: Mapping[str, Any] | None = None
    prepared_size: int = 0
    log_every: int = 10
    checkpoint_every: int = stage.efficiency(100)
    workers: int = stage.efficiency(-1)
    efficiency: EfficiencyConfig = stage.efficiency(EfficiencyConfig())

    def __post_init__(self) -> None:
        if len(set(self.students)) < len(self.students):
            raise ValueError("a student is named twice")


def run(run: StageRun) -> dict[str, Any]:
    """Distil each student on the packed set."""
    taught = training.read_recipe(run, "pretrained_checkpoint")
    # All recipes before the first training: a wrong name is told at once.
    planned = recipes_of(run.params, taught)
    counts: dict[str, Any] = {}
    for position, (name, recipe) in enumerate(planned.items()):
        counts |= _distil(run, taught, recipe, name, position)
    return counts


def recipes_of(params: Params, taught: Recipe) -> dict[str, Recipe]:
    """The recipe of each student by its name; the heads' shapes are the teacher's, whose prototypes are the targets.

    Raises:
        ConfigError: no such shape or setting, with the nearest name.
    """
    if not params.students:
        changes = SMALL if params.overrides is None else params.overrides
        return {"student": override(replace(taught, drop_path=0.0), changes)}
    return {name: override(recipes.distil(taught, name), params.overrides or {}) for name in params.students}


def _distil(run: StageRun, taught: Recipe, recipe: Recipe, name: str, position: int) -> dict[str, Any]:
    params: Params = run.params
    suffix = f"_{name}" if position else ""
    trained, counts = training.train_on(
        run,
        recipe,
        run.read("curated_lvd", "packed", ["image_id", "shard", "offset", "length"]),
        prepared_size=params.prepared_size,
        checkpoint_every=params.checkpoint_every,
        log_every=params.log_every,
        workers=params.workers,
        efficiency=params.efficiency,
        teacher=training.read_teacher(run, "pretrained_checkpoint", taught),
        part=f"checkpoints{suffix}",
        tracked_as=name,
    )
    backbone = trained.objective.average["backbone"]
    training.write_backbone(run, f"student{suffix}", backbone, recipe)
    training.write_state(run, trained, recipe, suffix)
    training.write_history(run, trained, position, f"{name}." if position else "")
    found = {
        **counts,
        "steps": recipe.steps,
        "parameters": sum(p.numel() for p in backbone.parameters()),
        **training.last_values(trained),
    }
    return {f"{key}{suffix}": value for key, value in found.items()}
