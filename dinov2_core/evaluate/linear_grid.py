"""All heads of the paper's linear grid trained at once (section 7.1, appendix B.3).

Heads differ in their inputs ({1, 4} last class tokens, with or without the mean patch) and learning rates. The heads
of one input are one matrix: a step costs one product forward and one back for all of them, and the images or features
are read once for the whole grid.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dinov2_core.errors import UserError

PAPER_RATES = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.3, 0.5)
"""The 13 learning rates of appendix B.3, for 1024 images a step."""


@dataclass(frozen=True)
class Head:
    """One point of the grid: class tokens of the last ``blocks``, the mean patch appended or not, and ``rate``."""

    blocks: int
    mean_patch: bool
    rate: float

    def __str__(self) -> str:
        return f"{self.blocks} block(s), {'with' if self.mean_patch else 'no'} mean patch, rate {self.rate:g}"


def inputs(cls: Tensor, mean: Tensor, blocks: int, mean_patch: bool) -> Tensor:
    """What a head sees: ``cls [B, L, D]`` and ``mean [B, D]`` → ``[B, (blocks + mean_patch) · D]``."""
    parts = [cls[:, -blocks:].flatten(1)]
    return torch.cat([*parts, mean], dim=1) if mean_patch else parts[0]


class LinearGrid:
    """Softmax heads under SGD with momentum 0.9, no weight decay and a cosine to 0, as one matrix an input."""

    def __init__(
        self,
        dim: int,
        layers: int,
        classes: int,
        *,
        steps: int,
        rates: tuple[float, ...] = PAPER_RATES,
        blocks: tuple[int, ...] = (1, 4),
        mean_patch: tuple[bool, ...] = (False, True),
        momentum: float = 0.9,
        seed: int = 0,
    ) -> None:
        """``rates`` are the peak rates as they are used; weights start normal with 0.01, biases at 0."""
        self.classes, self.steps, self.momentum, self.rates = classes, steps, momentum, rates
        depths = sorted({min(n, layers) for n in blocks})
        self.kinds = [(n, m) for n in depths for m in mean_patch]
        self.heads = [Head(n, m, rate) for n, m in self.kinds for rate in rates]
        self.rate = torch.tensor(rates).repeat_interleave(classes)
        generator = torch.Generator().manual_seed(seed)
        self.weight = [
            torch.empty(len(rates) * classes, (n + m) * dim).normal_(0, 0.01, generator=generator)
            for n, m in self.kinds
        ]
        self.bias = [torch.zeros(len(rates) * classes) for _ in self.kinds]
        self._speed = [(torch.zeros_like(w), torch.zeros_like(b)) for w, b in zip(self.weight, self.bias, strict=True)]
        self.step_number = 0

    @torch.no_grad()
    def step(self, cls: Tensor, mean: Tensor, labels: Tensor) -> None:
        """One step on ``cls [B, L, D]``, ``mean [B, D]``, ``labels [B]``."""
        factor = 0.5 * (1 + math.cos(math.pi * self.step_number / self.steps))
        rate = self.rate * factor
        rows = torch.arange(len(labels))
        for kind, weight, bias, (v_weight, v_bias) in zip(self.kinds, self.weight, self.bias, self._speed, strict=True):
            x = inputs(cls, mean, *kind)
            logits = torch.addmm(bias, x, weight.T).view(len(x), len(self.rates), self.classes)
            error = logits.softmax(dim=2)
            error[rows, :, labels] -= 1
            error = error.view(len(x), -1).div_(len(x))
            # Velocity and weight in one product each: g is added where it is made.
            v_weight.addmm_(error.T, x, beta=self.momentum)
            v_bias.mul_(self.momentum).add_(error.sum(dim=0))
            weight.addcmul_(v_weight, rate[:, None], value=-1)
            bias.addcmul_(v_bias, rate, value=-1)
        self.step_number += 1

    @torch.no_grad()
    def predict(self, cls: Tensor, mean: Tensor, *, block: int = 1024) -> NDArray[np.int64]:
        """Classes of every head: ``[N, L, D]`` and ``[N, D]`` → ``[heads, N]``, in the order of ``heads``."""
        found = []
        for start in range(0, len(cls), block):
            parts = []
            for kind, weight, bias in zip(self.kinds, self.weight, self.bias, strict=True):
                x = inputs(cls[start : start + block], mean[start : start + block], *kind)
                parts.append(torch.addmm(bias, x, weight.T).view(len(x), len(self.rates), -1).argmax(dim=2).T)
            found.append(torch.cat(parts))
        return torch.cat(found, dim=1).numpy()

    def train(self, batches: Iterable[tuple[Tensor, Tensor, Tensor]]) -> LinearGrid:
        """A step a batch; UserError where a head has diverged in all inputs."""
        for cls, mean, labels in batches:
            self.step(cls, mean, labels)
        if not any(bool(torch.isfinite(w).all(dim=1).any()) for w in self.weight):
            raise UserError("every head diverged", todo="look at the scale of the features, or lower the rates")
        return self

    def of(self, head: Head) -> tuple[Tensor, Tensor]:
        """``weight [K, inputs]`` and ``bias [K]`` of one head."""
        kind = self.kinds.index((head.blocks, head.mean_patch))
        at = self.rates.index(head.rate) * self.classes
        return self.weight[kind][at : at + self.classes], self.bias[kind][at : at + self.classes]

    @torch.no_grad()
    def logits(self, head: Head, cls: Tensor, mean: Tensor) -> Tensor:
        """``[N, K]`` of one head."""
        weight, bias = self.of(head)
        return torch.nn.functional.linear(inputs(cls, mean, head.blocks, head.mean_patch), weight, bias)
