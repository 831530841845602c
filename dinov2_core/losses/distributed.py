"""All-reduces that are nothing in a single process."""

from __future__ import annotations

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
