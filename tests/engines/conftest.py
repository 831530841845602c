"""One Ray cluster of several machines, as far as Ray can tell: each raylet is a node with one core."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

STORE = 80 << 20
"""Bytes of each node's object store: what goes through it by mistake would be seen."""


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """A head without cores and two nodes with one each; ``cluster.address`` is what ``RAY_ADDRESS`` would be."""
    import ray
    from ray.cluster_utils import Cluster

    from pipelines.engines.ray_pool import close_pools, connect

    head = {
        "num_cpus": 0,
        "object_store_memory": STORE,
        "memory": 1 << 30,
        "include_dashboard": True,
        "dashboard_port": 0,
        "_system_config": {"health_check_period_ms": 1000, "health_check_failure_threshold": 5},
    }
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
    """Ray gives a node 30 seconds to start; on a machine that is busy with other things that may not do."""
    for left in reversed(range(tries)):
        try:
            return start()
        except Exception as error:
            if not left or "timed out" not in str(error):
                raise
    return None
