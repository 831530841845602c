"""The training loop: batch, loss, backward, clip, step, average; metrics out, checkpoints, resume, NaN policy.

What is trained on what is given; where it runs and who tracks it do not belong here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from dinov2_core import config
from dinov2_core.errors import UserError
from dinov2_core.progress import Progress
from dinov2_core.train import checkpoint, param_groups, schedules
from dinov2_core.train.batches import step_seed
from dinov2_core.train.objective import Batch, Objective
from dinov2_core.train.recipe import Recipe

MAX_BAD_STEPS = 3
"""Steps in a row whose loss may be not finite; they are skipped. One more stops the run."""

Metrics = Mapping[str, float]


@dataclass
class Trained:
    """The result: the objective (its ``average`` is what ships), its optimiser, and what was measured by step."""

    objective: Objective
    optimizer: torch.optim.Optimizer
    history: list[tuple[int, str, float]] = field(default_factory=list)

    def tensors(self) -> dict[str, torch.Tensor]:
        """The whole state of the run, to ship or to continue from."""
        return checkpoint.state_tensors(self.objective, self.optimizer)


def train(
    recipe: Recipe,
    batches: Callable[[int], Batch],
    *,
    teacher: torch.nn.ModuleDict | None = None,
    initial: Mapping[str, torch.Tensor] | None = None,
    tracker: Callable[[int, Metrics], None] = lambda step, metrics: None,
    folder: Path | None = None,
    checkpoint_every: int = 100,
    log_every: int = 10,
    label: str = "training",
) -> Trained:
    """Train ``recipe`` to its last step, from the newest checkpoint in ``folder`` if there is one.

    The same recipe, batches and thread count give the same bits, interrupted or not.

    Args:
        batches: the batch of a step, as a pure function of it.
        teacher: a frozen teacher with heads makes this a distillation.
        initial: what student and average start from, named as in ``objective.build_network``; None draws them.
        tracker: is given (step, metrics) every ``log_every`` steps; must not raise.

    Raises:
        UserError: the loss was not finite for more than :data:`MAX_BAD_STEPS` steps in a row.
    """
    torch.manual_seed(recipe.seed)
    objective = Objective.of(recipe, teacher=teacher).train()
    if initial is not None:
        objective.student.load_state_dict(initial)
        objective.average.load_state_dict(initial)
    optimizer = param_groups.build_optimizer(objective.student, recipe.model.depth, recipe.optim)
    result = Trained(objective, optimizer)
    start, bad = _resume(result, recipe, folder)
    plan = schedules.of(recipe)
    with Progress(label, recipe.steps) as progress:
        progress.advance(start)
        for step in range(start, recipe.steps):
            # Stochastic depth draws from the global generator: its state is a function of the step.
            torch.manual_seed(step_seed(recipe.seed, step, "network"))
            batch = batches(step)
            metrics = _step(objective, optimizer, recipe, plan, batch, step)
            bad = 0 if metrics else bad + 1
            if bad > MAX_BAD_STEPS:
                raise UserError(
                    f"the loss was not finite for {bad} steps in a row, the last on images {batch.ids.tolist()}",
                    where=f"{label}, step {step}",
                    todo="lower optim.base_lr, raise optim.warmup, or use float32",
                )
            last = step + 1 == recipe.steps
            if metrics and (step % log_every == 0 or last):
                result.history += [(step, name, value) for name, value in metrics.items()]
                tracker(step, metrics)
            if folder is not None and ((step + 1) % checkpoint_every == 0 or last):
                _save(result, recipe, folder, step + 1, bad)
            progress.advance(1, note=f"loss {metrics['total']:.3f}" if metrics else "not finite, skipped")
    return result


def _step(
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    recipe: Recipe,
    plan: schedules.Schedules,
    batch: Batch,
    step: int,
) -> dict[str, float]:
    """One update; an empty result means that the loss or a gradient was not finite and nothing was changed."""
    lr = plan.lr(step)
    weight_decay = plan.weight_decay(step)
    momentum = plan.momentum(step)
    temperature = plan.teacher_temperature(step)
    param_groups.apply_schedule(optimizer, lr, plan.last_layer_lr(step), weight_decay)
    centers = objective.dino_center, objective.ibot_center
    losses = objective(batch, temperature)
    losses["total"].backward()
    norms = param_groups.clip_by_module(objective.student, recipe.optim.clip)
    values = {name: float(value.detach()) for name, value in losses.items()}
    values |= {f"grad_norm.{name}": float(norm) for name, norm in norms.items()}
    if not all(math.isfinite(value) for value in values.values()):
        objective.dino_center, objective.ibot_center = centers
        optimizer.zero_grad(set_to_none=True)
        return {}
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    objective.update_average(momentum)
    rest = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "teacher_temperature": temperature}
    return values | rest


def _note(recipe: Recipe, step: int, bad: int, history: list[tuple[int, str, float]]) -> dict[str, Any]:
    return {"recipe": config.to_plain(recipe), "step": step, "bad": bad, "history": history}


def _save(result: Trained, recipe: Recipe, folder: Path, step: int, bad: int) -> None:
    path = checkpoint.step_path(folder, step)
    checkpoint.save(path, result.tensors(), _note(recipe, step, bad, result.history))
    checkpoint.prune(folder, keep=2)


def _resume(result: Trained, recipe: Recipe, folder: Path | None) -> tuple[int, int]:
    """``(the step to go on with, steps that were not finite just before it)``."""
    path = checkpoint.latest(folder) if folder is not None else None
    if path is None:
        return 0, 0
    tensors, note = checkpoint.load(path)
    if note["recipe"] != config.to_plain(recipe):
        raise UserError(
            "the checkpoint is of another recipe", where=str(path), todo="use another folder, or delete this one"
        )
    checkpoint.restore(result.objective, result.optimizer, tensors)
    result.history = [(int(s), str(n), float(v)) for s, n, v in note["history"]]
    return int(note["step"]), int(note["bad"])
