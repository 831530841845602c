"""Collectives of the losses and of their callers, which are nothing in a single process."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Processes in the default group; 1 without one."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_ranks(value: Tensor) -> Tensor:
    """Sum ``value`` over all processes, in place, and return it."""
    if world_size() > 1:
        dist.all_reduce(value)
    return value


def gather_rows(value: Tensor) -> Tensor:
    """``[B, …]`` of each process → ``[world · B, …]`` in order of rank, with gradients; all B are equal.

    The gradient is the sum over processes. Where each then computes the same loss and gradients are averaged over
    processes, that average is the gradient of the one loss.
    """
    return _GatherRows.apply(value) if world_size() > 1 else value  # type: ignore[no-any-return, no-untyped-call]


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        parts = [torch.empty_like(value) for _ in range(world_size())]
        dist.all_gather(parts, value.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = sum_over_ranks(gradients[0].contiguous())
        return total.chunk(world_size())[dist.get_rank()]
