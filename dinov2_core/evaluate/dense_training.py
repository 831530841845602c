"""Training of a dense head on frozen features: AdamW, linear warm-up, polynomial decay.

The loop only: what features are and what is lost is passed in. The paper's schedules are not published; the defaults
are those of its successor's released configurations (``docs/evaluation.md``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dinov2_core.errors import UserError
from dinov2_core.progress import Progress


@dataclass(frozen=True)
class Schedule:
    """``steps`` of ``batch`` pictures; ``warmup`` steps; ``power`` of the decay; ``clip`` of the gradient, 0 = none."""

    steps: int = 40_000
    batch: int = 16
    lr: float = 1e-3
    weight_decay: float = 1e-3
    warmup: int = 1500
    power: float = 1.0
    clip: float = 0.0
    seed: int = 0

    def rate(self, step: int) -> float:
        """The share of ``lr`` at a step (from 0)."""
        warmup = min(self.warmup, self.steps // 2)
        if step < warmup:
            return (step + 1) / warmup
        return (1 - (step - warmup) / max(self.steps - warmup, 1)) ** self.power


def draw_indices(count: int, schedule: Schedule) -> Iterator[list[int]]:
    """Batches for every step: permutations of all pictures, one after the other."""
    generator = torch.Generator().manual_seed(schedule.seed)
    waiting: list[int] = []
    for _ in range(schedule.steps):
        while len(waiting) < schedule.batch:
            waiting += torch.randperm(count, generator=generator).tolist()
        yield waiting[: schedule.batch]
        waiting = waiting[schedule.batch :]


def train_head(
    head: nn.Module,
    count: int,
    loss: Callable[[list[int]], Tensor],
    schedule: Schedule,
    *,
    label: str,
) -> float:
    """Train ``head`` in place; ``loss`` maps the indices of a batch (of ``count`` pictures) to a scalar.

    Returns:
        The mean loss of the last tenth of the steps.

    Raises:
        UserError: a loss is not finite.
    """
    optimizer = torch.optim.AdamW(head.parameters(), lr=schedule.lr, weight_decay=schedule.weight_decay)
    head.train()
    last: list[float] = []
    with Progress(label, schedule.steps) as progress:
        for step, indices in enumerate(draw_indices(count, schedule)):
            for group in optimizer.param_groups:
                group["lr"] = schedule.lr * schedule.rate(step)
            value = loss(indices)
            if not torch.isfinite(value):
                todo = "look at the weights, or lower the schedule's lr"
                raise UserError(f"the loss is {value.item()} at step {step}", where=label, todo=todo)
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            if schedule.clip:
                nn.utils.clip_grad_norm_(head.parameters(), schedule.clip)
            optimizer.step()
            if step >= schedule.steps * 0.9:
                last.append(value.item())
            progress.advance(1)
    head.eval()
    return sum(last) / max(len(last), 1)
