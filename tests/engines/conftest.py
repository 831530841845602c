"""One Ray cluster of several machines, as far as Ray can tell: each raylet is a node with one core.

A raylet ends itself when its agents have not begun after 15 seconds, so as few programs as possible start beside them:
of the dashboard's ten only the two that jobs need, no autoscaler, no monitor of logs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

STORE = 80 << 20
"""Bytes of each node's object store: what goes through it by mistake would be seen."""


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """A head without cores and two nodes with one each; ``cluster.address`` is what ``RAY_ADDRESS`` would be."""
    import ray
    from ray._private import services
    from ray.cluster_utils import Cluster

    from pipelines.engines.ray_pool import close_pools, connect

    head = {
        "num_cpus": 0,
        "object_store_memory": STORE,
        "memory": 1 << 30,
        "include_dashboard": True,
        "dashboard_port": 0,
        # Any that is free: the usual one may be another cluster's, and an agent without a port takes no jobs.
        "dashboard_agent_listen_port": None,
        "no_monitor": True,
        "include_log_monitor": False,
        "_system_config": {"health_check_period_ms": 1000, "health_check_failure_threshold": 5},
    }
    start = services.start_ray_process

    def start_lean(command: list[str], kind: str, **more: Any) -> Any:
        only = ["--modules-to-load=JobHead,NodeHead"] if kind == "dashboard" else []
        return start([*command, *only], kind, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(services, "start_ray_process", start_lean)
        made = patiently(lambda: Cluster(initialize_head=True, head_node_args=head))
    try:
        for _ in range(2):
            node(made)
        patiently(lambda: connect(made.address))
        yield made
    finally:
        close_pools()
        ray.shutdown()
        made.shutdown()


def node(cluster: Any, memory: int = 1 << 30) -> Any:
    """One more node with one core; ``memory`` is what it says it has."""
    return patiently(lambda: cluster.add_node(num_cpus=1, object_store_memory=STORE, memory=memory))


def patiently(start: Callable[[], Any], tries: int = 4) -> Any:
    """Start something again where Ray gave up waiting for it, after ending what the try before left running."""
    for left in reversed(range(tries)):
        before = set(psutil.Process().children(recursive=True))
        try:
            return start()
        except Exception as error:
            if not left or "timed out" not in str(error):
                raise
            for process in set(psutil.Process().children(recursive=True)) - before:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
    return None
