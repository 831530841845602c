"""The workers of a cluster that wait for shards: as many as fit, on whatever machines are there now.

Workers outlive a map, so that the next one with the same needs finds its models loaded. Which shard goes to whom is in
``ray_shard_map``.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from dataclasses import dataclass, field
from typing import Any

from dinov2_core.errors import UserError
from dinov2_core.shard_map import Resources
from pipelines.engines import ray_worker

log = logging.getLogger(__name__)
_LOOK_EVERY = 2.0
"""Seconds between two looks at which machines there are."""


@dataclass
class Flight:
    """A shard that a worker was given; ``began`` is when the worker came to it, as far as is known."""

    index: int
    ref: Any
    began: float


@dataclass(eq=False)
class Member:
    """One worker. Of its ``flights`` the first runs and the others wait for it."""

    handle: Any
    born: Any
    up: bool = False
    flights: list[Flight] = field(default_factory=list)


def connect(address: str) -> None:
    """Join the cluster at ``address`` (``auto``, ``HOST:PORT``, or ``local`` for one on this machine), once a process.

    Raises:
        UserError: Ray is not installed, the address is of another kind, or nothing answers there.
    """
    try:
        import ray
    except ImportError as error:
        raise UserError(
            "a cluster address is set, but Ray is not installed", todo="install the extra `ray`, or unset RAY_ADDRESS"
        ) from error
    if address.startswith("ray://"):
        raise UserError(
            "long client connections are not used: they end with the network's next hiccup",
            where=f"RAY_ADDRESS={address}",
            todo="give the dashboard's http:// address, and each stage runs as a job on the cluster",
        )
    if ray.is_initialized():
        return
    try:
        ray.init(address=address, namespace="dinov2", log_to_driver=False, logging_level=logging.WARNING)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(
            f"no Ray cluster answers ({str(error).splitlines()[0]})",
            where=f"RAY_ADDRESS={address}",
            todo="start it, or unset RAY_ADDRESS to work with local processes",
        ) from error


class Pool:
    """The workers of one program for one kind of need."""

    def __init__(self, needs: Resources) -> None:
        self.needs = needs
        self.members: list[Member] = []
        self._looked = -1e9

    def keep_up(self, wanted: int, most: int) -> None:
        """Start workers where there is room for more, at most ``most``; ``wanted`` (0: what fits) asks for a number.

        A number beyond what fits makes an autoscaler add machines.
        """
        now = time.monotonic()
        if now - self._looked < _LOOK_EVERY:
            return
        self._looked = now
        target = min(most, wanted or max(1, self.room()))
        for _ in range(target - len(self.members)):
            self.members.append(self._start())

    def room(self) -> int:
        """How many workers the machines that are alive have cores and GPUs for."""
        import ray

        found = 0
        for node in ray.nodes():
            if node["Alive"]:
                have = node["Resources"]
                room = [have.get(kind, 0.0) / need for kind, need in self._wants().items() if need > 0]
                found += int(min(room, default=1.0) + 1e-9)
        return found

    def _wants(self) -> dict[str, float]:
        return {"CPU": self.needs.cpus, "GPU": self.needs.gpus, "memory": float(self.needs.memory)}

    def _start(self) -> Member:
        import ray

        actor = ray.remote(ray_worker.RayWorker).options(
            num_cpus=self.needs.cpus,
            num_gpus=self.needs.gpus,
            memory=self.needs.memory or None,
            # Lost workers are replaced here, where it is known which shards they had.
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy="SPREAD",
        )
        handle = actor.remote(ray_worker.environment(), os.getcwd())
        return Member(handle, handle.ready.remote())

    def drop(self, member: Member) -> None:
        """End a worker, in the middle of a shard if need be."""
        import ray

        self.members.remove(member)
        with contextlib.suppress(Exception):
            ray.kill(member.handle, no_restart=True)
        self._looked = -1e9

    def pause(self, seconds: float) -> None:
        """Start no worker for some seconds."""
        self._looked = time.monotonic() + seconds - _LOOK_EVERY

    def close(self) -> None:
        for member in list(self.members):
            self.drop(member)


_pools: dict[Resources, Pool] = {}


def pool_for(needs: Resources) -> Pool:
    """The pool of this program for ``needs``; those for other needs give their cores and GPUs back."""
    for other in [other for other in _pools if other != needs]:
        _pools.pop(other).close()
    return _pools.setdefault(needs, Pool(needs))


def close_pools() -> None:
    """End the workers of this program."""
    while _pools:
        _pools.popitem()[1].close()
