"""The training loop: batch, loss, backward, clip, step, average; metrics out, checkpoints, resume, NaN policy.

What is trained on what is given; where it runs and who tracks it do not belong here.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from dinov2_core import config
from dinov2_core.errors import UserError
from dinov2_core.losses.distributed import sum_over_ranks, world_size
from dinov2_core.progress import Progress
from dinov2_core.train import checkpoint, param_groups, schedules
from dinov2_core.train.batches import step_seed
from dinov2_core.train.checkpoint_copies import Copies
from dinov2_core.train.host_memory import keep_freed_memory
from dinov2_core.train.metrics import CLOCKED, Meter, diagnostics
from dinov2_core.train.objective import Batch, Objective
from dinov2_core.train.parallelise import parallelise
from dinov2_core.train.precision import LossScale
from dinov2_core.train.preemption import Preempted, Preemption
from dinov2_core.train.recipe import EfficiencyConfig, Recipe

MAX_BAD_STEPS = 3
"""Steps in a row whose loss may be not finite; they are skipped. One more stops the run."""
BAD_STEPS = "not-finite-{rank}.jsonl"
"""In the run's folder, a file a process: one line a skipped step, with its step and the images of its batch."""

Metrics = Mapping[str, float]


@dataclass
class Trained:
    """The result: the objective (its ``average`` is what ships), its optimiser, and what was measured by step."""

    objective: Objective
    optimizer: torch.optim.Optimizer
    history: list[tuple[int, str, float]] = field(default_factory=list)
    bad: int = 0
    """steps in a row, up to now, that were not finite"""
    skipped: int = 0
    """steps that were not finite, in all"""
    scale: LossScale = field(default_factory=LossScale)

    def tensors(self) -> dict[str, torch.Tensor]:
        """The whole state of the run, to ship or to continue from. Processes that train together must all call it."""
        return checkpoint.whole(checkpoint.state_tensors(self.objective, self.optimizer))


def train(
    recipe: Recipe,
    batches: Callable[[int], Batch],
    *,
    teacher: torch.nn.ModuleDict | None = None,
    initial: Mapping[str, torch.Tensor] | None = None,
    efficiency: EfficiencyConfig = EfficiencyConfig(),
    device: torch.device | str = "cpu",
    tracker: Callable[[int, Metrics], None] = lambda step, metrics: None,
    folder: Path | None = None,
    checkpoint_every: int = 100,
    keep: int = 2,
    keep_every: int = 0,
    copies: Copies | None = None,
    data: str = "",
    log_every: int = 10,
    label: str = "training",
) -> Trained:
    """Train ``recipe`` to its last step, from the newest checkpoint in ``folder`` or of its copies if there is one.

    The same recipe, batches, processes and thread count give the same bits, interrupted or not. With a process group
    (``launch.joined``) all its processes train together, each on its rows of the batch.

    Args:
        batches: this process's rows of the batch of a step, as a pure function of it.
        teacher: a frozen teacher with heads makes this a distillation.
        initial: what student and average start from, named as in ``objective.build_network``; None draws them.
        tracker: is given (step, metrics) every ``log_every`` steps by the first process; must not raise.
        folder: where checkpoints are; shared by all processes. Only with one can a run be asked to end.
        keep, keep_every: the newest checkpoints that stay, and the multiples of steps that stay for good.
        copies: where checkpoints are copied to beside the training, and come back from where ``folder`` was lost.
        data: what names the data, such as a manifest's hash; a checkpoint of other data is refused.

    Raises:
        UserError: the loss was not finite for more than :data:`MAX_BAD_STEPS` steps in a row; a checkpoint is of
            another recipe or of other data.
        Preempted: SIGTERM or SIGUSR1 came; the state after the last whole step is saved.
    """
    device, world = torch.device(device), world_size()
    first = world == 1 or dist.get_rank() == 0
    result = _start(recipe, teacher, initial, efficiency, device)
    folders = checkpoint.Folder(folder, keep, keep_every, copies) if folder is not None else None
    start = _resume(result, recipe, folders, data)
    plan, meter = schedules.of(recipe), Meter(recipe, device, world)
    with Progress(label, recipe.steps) as progress, Preemption() as preemption, folders or nullcontext():
        progress.advance(start)
        for step in range(start, recipe.steps):
            began = time.monotonic()
            batch = batches(step).to(device)
            waited = time.monotonic() - began
            last = step + 1 == recipe.steps
            logs = step % log_every == 0 or last
            asked = folders is not None and preemption.asked
            metrics, asked = _step(result, recipe, plan, batch, step, efficiency.accumulate, logs=logs, asked=asked)
            meter.step(waited)
            if not metrics:
                _note_bad(folder, step, batches, batch)
            if result.bad > MAX_BAD_STEPS:
                raise UserError(
                    f"the loss was not finite for {result.bad} steps in a row, the last on images {batch.ids.tolist()}",
                    where=f"{label}, step {step}",
                    todo="lower optim.base_lr, raise optim.warmup, or use float32",
                )
            if metrics and logs:
                result.history += [(step, name, value) for name, value in metrics.items() if name not in CLOCKED]
                if first:
                    tracker(step, metrics | meter.report(step) | {"skipped_steps": float(result.skipped)})
            if folders is not None:
                if (step + 1) % checkpoint_every == 0 or last or asked:
                    folders.save(
                        checkpoint.state_tensors(result.objective, result.optimizer),
                        step + 1,
                        _note(result, recipe, step + 1, data),
                    )
                if asked and not last:
                    folders.finish()
                    raise Preempted(step + 1)
            progress.advance(1, note=f"loss {metrics['total']:.3f}" if metrics else "not finite, skipped")
        if folders is not None:
            folders.finish()
    return result


def _start(
    recipe: Recipe,
    teacher: torch.nn.ModuleDict | None,
    initial: Mapping[str, torch.Tensor] | None,
    efficiency: EfficiencyConfig,
    device: torch.device,
) -> Trained:
    if device.type == "cpu":
        keep_freed_memory()
    # Every process draws the same network, so that sharding it needs no broadcast.
    torch.manual_seed(recipe.seed)
    objective = Objective.of(recipe, teacher=teacher).train()
    if initial is not None:
        objective.student.load_state_dict(initial)
        objective.average.load_state_dict(initial)
    objective.to(device)
    networks = [(objective.student, True), (objective.average, False)]
    if teacher is not None:
        networks.append((objective.teacher, False))
    for network, trains in networks:
        parallelise(network, efficiency, precision=objective.precision, device=device, trains=trains)
    optimizer = param_groups.build_optimizer(objective.student, recipe.model.depth, recipe.optim)
    return Trained(objective, optimizer, scale=LossScale.of(objective.precision))


def _step(
    result: Trained,
    recipe: Recipe,
    plan: schedules.Schedules,
    batch: Batch,
    step: int,
    parts: int,
    *,
    logs: bool,
    asked: bool,
) -> tuple[dict[str, float], bool]:
    """One update, ``(metrics, whether any process was asked to end)``; without metrics nothing was changed.

    Processes agree on both by one all-reduce: a loss that is not finite in one of them makes the mean so in all.
    """
    objective, optimizer = result.objective, result.optimizer
    # Stochastic depth draws from the global generator: its state is a function of the step, and of the process.
    rank = dist.get_rank() if world_size() > 1 else 0
    torch.manual_seed(step_seed(recipe.seed, step, f"network {rank}" if rank else "network"))
    param_groups.apply_schedule(optimizer, plan.lr(step), plan.last_layer_lr(step), plan.weight_decay(step))
    centers = objective.dino_center, objective.ibot_center
    losses = objective.backward(batch, plan.teacher_temperature(step), parts=parts, scale=result.scale.value)
    norms = param_groups.clip_by_module(objective.student, recipe.optim.clip, scale=result.scale.value)
    terms = losses.terms | (diagnostics(losses) if logs else {})
    mine = torch.stack([*(value.float() for value in terms.values()), losses.cls.new_tensor(float(asked))])
    shared = (sum_over_ranks(mine) / world_size()).tolist()
    values = dict(zip(terms, shared, strict=False))
    gradients = {f"grad_norm.{name}": float(norm) for name, norm in norms.items()}
    finite = all(math.isfinite(value) for value in values.values())
    good = finite and all(math.isfinite(norm) for norm in gradients.values())
    if good:
        result.bad = 0
        result.scale.step()
        optimizer.step()
        objective.update_average(plan.momentum(step))
    else:
        objective.dino_center, objective.ibot_center = centers
        result.skipped += 1
        # Gradients that overflow where the loss does not are float16's, and no fault of the batch.
        if not (finite and result.scale.lower()):
            result.bad += 1
    optimizer.zero_grad(set_to_none=True)
    if not good:
        return {}, shared[-1] > 0
    rest = {
        "lr": plan.lr(step),
        "weight_decay": plan.weight_decay(step),
        "momentum": plan.momentum(step),
        "teacher_temperature": plan.teacher_temperature(step),
    }
    return values | gradients | rest, shared[-1] > 0


def _note_bad(folder: Path | None, step: int, batches: Callable[[int], Batch], batch: Batch) -> None:
    """Keep the images of a skipped step, by what the batches call them if they can say."""
    if folder is None:
        return
    names = getattr(batches, "names", None)
    ids = batch.ids.tolist()
    rank = dist.get_rank() if world_size() > 1 else 0
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / BAD_STEPS.format(rank=rank), "a") as f:
        f.write(json.dumps({"step": step, "images": names(ids) if names else ids}) + "\n")


def _note(result: Trained, recipe: Recipe, step: int, data: str) -> dict[str, Any]:
    return {
        "recipe": config.to_plain(recipe),
        "data": data,
        "step": step,
        "bad": result.bad,
        "skipped": result.skipped,
        "scale": [result.scale.value, result.scale.good],
        "history": list(result.history),
    }


def _resume(result: Trained, recipe: Recipe, folders: checkpoint.Folder | None, data: str) -> int:
    """The step to go on with."""
    path = folders.latest() if folders is not None else None
    if folders is None or path is None:
        return 0
    note = checkpoint.read_note(path)
    todo = "use another folder, or delete this one"
    if note["recipe"] != config.to_plain(recipe):
        raise UserError("the checkpoint is of another recipe", where=str(path), todo=todo)
    if note["data"] != data:
        raise UserError("the checkpoint is of other data", where=str(path), todo=todo)
    folders.load(path, result.objective, result.optimizer)
    result.history = [(int(s), str(n), float(v)) for s, n, v in note["history"]]
    result.bad, result.skipped = int(note["bad"]), int(note["skipped"])
    result.scale.value, result.scale.good = float(note["scale"][0]), int(note["scale"][1])
    return int(note["step"])
