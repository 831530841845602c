"""Work in shares: over the ranks of a process group, over local processes, or whole in this one.

Whoever does the work, every process gets all results in one order, and an error of one share is an error on every
process. What the work is belongs to the callers.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dinov2_core.progress import track

T = TypeVar("T")
Share = tuple[int, int]
"""``(which, of how many)``."""


def in_shares(task: Callable[[Share], T], processes: int = 1) -> list[T]:
    """What ``task`` gives for each share, in order; the same on every process.

    The shares are the ranks where this program is one of a process group; else ``processes`` local processes, for which
    ``task`` has to be picklable; else there is one.

    Raises:
        Exception: the first that a share raised, on every rank, so that none waits for one that has failed.
    """
    if _grouped():
        return _over_ranks(task)
    if processes > 1:
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, mp_context=spawn, initializer=_few_threads, initargs=(processes,)) as pool:
            started = [pool.submit(task, (i, processes)) for i in range(processes)]
            return [one.result() for one in started]
    return [task((0, 1))]


def spread(function: Callable[[int], T], count: int, processes: int = 1, *, label: str = "") -> list[T]:
    """``[function(0), …, function(count - 1)]``, each computed once, by one of the processes."""
    parts = in_shares(partial(_every, function, count, label), min(processes, max(count, 1)))
    return [parts[i % len(parts)][i // len(parts)] for i in range(count)]


def rows(function: Callable[[Tensor], list[Tensor]], batch: Tensor) -> list[Tensor]:
    """``function(batch)``, each rank computing a part of the rows; for what is computed anew at every step.

    Args:
        function: ``[B, …]`` → tensors ``[B, …]``, row by row.
        batch: the same on every rank.
    """
    if not _grouped():
        return function(batch)
    world = dist.get_world_size()
    each = -(-len(batch) // world)
    # Short batches go round, so that all parts are equal: a gather takes nothing else.
    mine = torch.arange(dist.get_rank() * each, (dist.get_rank() + 1) * each) % len(batch)
    found = []
    for values in function(batch[mine.to(batch.device)]):
        parts = [torch.empty_like(values, memory_format=torch.contiguous_format) for _ in range(world)]
        dist.all_gather(parts, values.contiguous())
        found.append(torch.cat(parts)[: len(batch)])
    return found


def agree(module: nn.Module) -> None:
    """Give every rank the first one's weights: sums on a GPU may differ in their last bits, scores must not."""
    if _grouped():
        for tensor in module.state_dict().values():
            dist.broadcast(tensor, 0)


def _grouped() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _over_ranks(task: Callable[[Share], T]) -> list[T]:
    mine: tuple[T | None, Exception | None]
    try:
        mine = (task((dist.get_rank(), dist.get_world_size())), None)
    except Exception as error:  # noqa: BLE001 - told to all ranks, and raised below
        mine = (None, error)
    found: list[tuple[T, Exception | None]] = [mine] * dist.get_world_size()  # type: ignore[list-item]
    dist.all_gather_object(found, mine)
    for _, failure in found:
        if failure is not None:
            raise failure
    return [result for result, _ in found]


def _every(function: Callable[[int], T], count: int, label: str, share: Share) -> list[T]:
    mine = range(share[0], count, share[1])
    return [function(i) for i in (track(mine, label) if label else mine)]


def _few_threads(processes: int) -> None:
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))
