"""One Ray cluster of several machines, as far as Ray can tell: each raylet is a node with one core."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

STORE = 80 << 20
"""Bytes of each node's object store: what goes through it by mistake would be seen."""


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """A head without cores and two nodes with one each; ``cluster.address`` is what ``RAY_ADDRESS`` would be."""
    ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")
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
    made = Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(2):
            made.add_node(wait=False, num_cpus=1, object_store_memory=STORE, memory=1 << 30)
        made.wait_for_nodes(timeout=120)
        connect(made.address)
        yield made
    finally:
        close_pools()
        ray.shutdown()
        made.shutdown()
