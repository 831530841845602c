"""How learning rate, weight decay, momentum and temperature move, as functions of the step.

The form of the public reference: a linear warm-up, a cosine down (or up) to the final value at ``total``, then the
final value. Which values a run uses is in ``recipe.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from dinov2_core.train.recipe import Recipe


@dataclass(frozen=True)
class CosineSchedule:
    """``value(step)``: ``freeze`` steps at 0, ``warmup`` steps from ``start`` to ``base``, cosine to ``final``."""

    base: float
    final: float
    total: int
    warmup: int = 0
    start: float = 0.0
    freeze: int = 0

    def __call__(self, step: int) -> float:
        if step >= self.total:
            return self.final
        if step < self.freeze:
            return 0.0
        step -= self.freeze
        if step < self.warmup:
            # Both ends included, as a linspace of `warmup` points.
            return self.start + (self.base - self.start) * (step / (self.warmup - 1) if self.warmup > 1 else 0.0)
        length = self.total - self.warmup - self.freeze
        turn = math.pi * (step - self.warmup) / length
        return self.final + 0.5 * (self.base - self.final) * (1 + math.cos(turn))


@dataclass(frozen=True)
class ZeroFirst:
    """``schedule`` with its first ``steps`` values replaced by 0; unlike ``freeze``, the rest is not shifted."""

    schedule: CosineSchedule
    steps: int

    def __call__(self, step: int) -> float:
        return 0.0 if step < self.steps else self.schedule(step)


@dataclass(frozen=True)
class Schedules:
    """The five schedules of a run."""

    lr: Callable[[int], float]
    last_layer_lr: Callable[[int], float]
    weight_decay: Callable[[int], float]
    momentum: Callable[[int], float]
    teacher_temperature: Callable[[int], float]


def of(recipe: Recipe) -> Schedules:
    """The schedules of ``recipe``."""
    optim, teacher, steps = recipe.optim, recipe.teacher, recipe.steps
    lr = CosineSchedule(recipe.lr, optim.min_lr, steps, warmup=optim.warmup)
    warm = teacher.temperature_warmup
    return Schedules(
        lr=lr,
        last_layer_lr=ZeroFirst(lr, optim.freeze_last_layer),
        weight_decay=CosineSchedule(optim.weight_decay, optim.final_weight_decay, steps),
        momentum=CosineSchedule(teacher.momentum, teacher.final_momentum, steps),
        teacher_temperature=CosineSchedule(
            teacher.temperature, teacher.temperature, warm, warmup=warm, start=teacher.first_temperature
        ),
    )
