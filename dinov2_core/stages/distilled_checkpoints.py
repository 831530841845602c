"""The stage ``distilled_checkpoints``: a smaller student of the frozen teacher (paper, section 5).

The loop is pretraining's with the teacher and its heads frozen, an unmasked student without stochastic depth, and an
average of the student that is what ships.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from dinov2_core import stage
from dinov2_core.stage import StageRun
from dinov2_core.stages import training
from dinov2_core.train import recipes
from dinov2_core.train.recipe import override


@dataclass(frozen=True)
class Params:
    """``student``: ``vit_small``, ``vit_base`` or ``vit_large`` trained by the paper's constants (``recipes.distil``);
    empty takes the teacher's recipe. ``overrides``: dotted settings on top: the student's shape, steps, learning rate.
    ``prepared_size``: see ``training.train_on``.
    """

    student: str = ""
    overrides: Mapping[str, Any] = field(default_factory=lambda: {"model.dim": 64, "model.heads": 2, "steps": 150})
    prepared_size: int = 0
    log_every: int = 10
    checkpoint_every: int = stage.efficiency(100)
    workers: int = stage.efficiency(-1)


def run(run: StageRun) -> dict[str, Any]:
    """Distil one student on the packed set."""
    params: Params = run.params
    taught = training.read_recipe(run, "pretrained_checkpoint")
    # The heads' shapes are the teacher's: its prototypes are the targets.
    derived = recipes.distil(taught, params.student) if params.student else replace(taught, drop_path=0.0)
    recipe = override(derived, params.overrides)
    teacher = training.read_teacher(run, "pretrained_checkpoint", taught)
    trained, counts = training.train_on(
        run,
        recipe,
        run.read("curated_lvd", "packed", ["image_id", "shard", "offset", "length"]),
        prepared_size=params.prepared_size,
        checkpoint_every=params.checkpoint_every,
        log_every=params.log_every,
        workers=params.workers,
        teacher=teacher,
    )
    backbone = trained.objective.average["backbone"]
    training.write_backbone(run, "student", backbone, recipe)
    training.write_state(run, trained, recipe)
    training.write_history(run, trained)
    return {
        **counts,
        "steps": recipe.steps,
        "parameters": sum(p.numel() for p in backbone.parameters()),
        **training.last_values(trained),
    }
