"""What a run says of itself: speed, memory, its share of the device's FLOP rate, signs of collapse; as one line."""

from __future__ import annotations

import resource
import time
from collections.abc import Mapping

import torch
from torch import Tensor

from dinov2_core.progress import clock
from dinov2_core.train import flops
from dinov2_core.train.objective import Losses
from dinov2_core.train.recipe import Recipe

CLOCKED = ("images_per_s", "data_wait", "memory_gib", "mfu_executed", "mfu_nominal", "eta_s")
"""Metrics that no two runs share; they are reported, and kept out of the history that a run ships."""


class Meter:
    """Time of the steps since the last report, and how much of it was waiting for data."""

    def __init__(self, recipe: Recipe, device: torch.device, world: int) -> None:
        self.recipe, self.device, self.world = recipe, device, world
        self.cost = flops.of(recipe)
        self.peak = flops.peak(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
        self.steps, self.waited, self.started = 0, 0.0, time.monotonic()

    def step(self, waited: float) -> None:
        """One step more, ``waited`` seconds of it for its batch."""
        self.steps += 1
        self.waited += waited

    def report(self, step: int) -> dict[str, float]:
        """The metrics named in :data:`CLOCKED` since the last report; MFU only where the device's peak is known."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        seconds = max(time.monotonic() - self.started, 1e-9)
        rate = self.recipe.batch * self.steps / seconds
        left = (self.recipe.steps - step - 1) * seconds / max(self.steps, 1)
        values = {"images_per_s": rate, "data_wait": self.waited / seconds, "memory_gib": self._memory(), "eta_s": left}
        if self.peak:
            available = self.peak * self.world
            values["mfu_executed"] = rate * self.cost.executed / available
            values["mfu_nominal"] = rate * self.cost.nominal / available
        self.steps, self.waited, self.started = 0, 0.0, time.monotonic()
        return values

    def _memory(self) -> float:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**30
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


@torch.no_grad()
def diagnostics(losses: Losses) -> dict[str, Tensor]:
    """Signs of collapse in one process's batch (0-d float32 each).

    ``target_entropy``: mean entropy of a target for the class token, in nats. ``prototypes_used``: share of prototypes
    that are some image's largest target. ``feature_rank``: RankMe of the normalised class tokens (arXiv 2210.02885,
    equation 1), ``exp(-Σ p log p)`` over their singular values as shares; at most the smaller of 2B and D.
    """
    targets = losses.targets.flatten(0, 1)
    entropy = -torch.special.xlogy(targets, targets).sum(dim=1).mean()
    used = targets.argmax(dim=1).unique().numel() / targets.shape[1]
    cls = torch.nn.functional.normalize(losses.cls.flatten(0, 1).float(), dim=1)
    if torch.isfinite(cls).all():
        values = torch.linalg.svdvals(cls)
        share = values / values.sum()
        rank = torch.exp(-torch.special.xlogy(share, share).sum())
    else:
        rank = torch.full((), torch.nan, device=cls.device)
    return {"target_entropy": entropy, "prototypes_used": torch.tensor(used, device=cls.device), "feature_rank": rank}


def line(step: int, steps: int, metrics: Mapping[str, float], recipe: Recipe) -> str:
    """One line for people, such as a command prints every n steps."""
    cost = flops.of(recipe)
    parts = [f"step {step + 1}/{steps}"]
    named = {"total": "loss", "dino_local": "local", "dino_global": "global", "ibot": "ibot", "koleo": "koleo"}
    parts += [f"{short} {metrics[name]:.4f}" for name, short in named.items() if name in metrics]
    parts.append(f"lr {metrics['lr']:.2e}")
    if "images_per_s" in metrics:
        parts.append(f"{metrics['images_per_s']:.1f} images/s")
        parts.append(f"{cost.student_tokens}+{cost.teacher_tokens} tokens an image")
        parts.append(f"data wait {metrics['data_wait']:.0%}")
        parts.append(f"{metrics['memory_gib']:.2f} GiB")
        if "mfu_executed" in metrics:
            parts.append(f"MFU {metrics['mfu_executed']:.1%} executed, {metrics['mfu_nominal']:.1%} nominal")
        parts.append(f"{clock(metrics['eta_s'])} left")
    return ", ".join(parts)
