"""Joining the processes that train together. Who started them (torchrun, Ray, a test) is told by the environment."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous


@dataclass(frozen=True)
class Process:
    """This process among those that train together, and its device."""

    rank: int
    world: int
    local_world: int
    device: torch.device


@contextmanager
def joined() -> Iterator[Process]:
    """The process group of ``RANK``, ``WORLD_SIZE``, … while inside; without them this process alone, and no group."""
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    local_rank, local_world = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    if world == 1:
        yield Process(0, 1, 1, device)
        return
    # An agent that starts lost processes again keeps its store, and in it the addresses of the lost ones.
    store = PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", next(rendezvous("env://"))[0])
    # Checkpoints are written by way of the CPU whatever computes.
    backends = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backends, store=store, rank=rank, world_size=world)
    try:
        yield Process(rank, world, local_world, device)
    finally:
        dist.destroy_process_group()
