"""The engine on Ray against local processes on the same cores: overhead, scaling by nodes, the price of a lost node.

    python -m benchmarks.engine [--tasks 1000] [--seconds 0.05] [--only overhead scaling loss]

Needs the extra `ray` and a machine with at least two free cores. Every node is a raylet of its own on this machine; a
task computes on one core until its own processor time is ``--seconds``, so that cores that are shared with other
programs show. ``--sleep`` has tasks wait instead: what is then measured is the engine alone.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from dinov2_core.shard_map import ProcessShardMap, ShardMap

STORE = 80 << 20


def compute(task: Any) -> dict[str, Any]:
    # Before the work: a shard that was in the middle when its worker died counts as done again.
    if task["calls"]:
        Path(task["calls"], f"{task['n']}-{os.getpid()}-{time.time_ns()}").touch()
    if task["sleep"]:
        time.sleep(task["seconds"])
    else:
        until = time.process_time() + task["seconds"]
        while time.process_time() < until:
            pass
    return {"n": task["n"]}


def work(count: int, seconds: float, sleep: bool, calls: str = "") -> list[dict[str, Any]]:
    return [{"n": n, "seconds": seconds, "sleep": sleep, "calls": calls} for n in range(count)]


def wall(engine: ShardMap, tasks: list[dict[str, Any]]) -> float:
    """Seconds from a warm start to the last result."""
    list(engine.map(compute, tasks[:8]))
    began = time.monotonic()
    assert len(list(engine.map(compute, tasks))) == len(tasks)
    return time.monotonic() - began


def started(nodes: int) -> Any:
    from ray.cluster_utils import Cluster

    from pipelines.engines.ray_pool import connect

    head = {"num_cpus": 0, "object_store_memory": STORE, "include_dashboard": False}
    health = {"health_check_period_ms": 1000, "health_check_failure_threshold": 5}
    cluster = Cluster(initialize_head=True, head_node_args={**head, "_system_config": health})
    for _ in range(nodes):
        cluster.add_node(num_cpus=1, object_store_memory=STORE)
    connect(cluster.address)
    return cluster


def ended(cluster: Any) -> None:
    import ray

    from pipelines.engines.ray_pool import close_pools

    close_pools()
    ray.shutdown()
    cluster.shutdown()


def overhead(count: int, seconds: float, sleep: bool, rounds: int) -> dict[str, Any]:
    """The same tasks by two local processes and by two nodes with one core each, in turn."""
    from pipelines.engines.ray_shard_map import RayShardMap

    cluster = started(2)
    tasks = work(count, seconds, sleep)
    try:
        pairs = [(wall(ProcessShardMap(2), tasks), wall(RayShardMap(cluster.address), tasks)) for _ in range(rounds)]
    finally:
        ended(cluster)
    local, ray = (statistics.median(side) for side in zip(*pairs, strict=True))
    return {"local_s": round(local, 2), "ray_s": round(ray, 2), "overhead": round(ray / local - 1, 4)}


def scaling(count: int, seconds: float, sleep: bool, rounds: int) -> dict[str, Any]:
    """The same tasks by one node and by two."""
    from pipelines.engines.ray_shard_map import RayShardMap

    cluster = started(2)
    tasks = work(count, seconds, sleep)
    try:
        one = [wall(RayShardMap(cluster.address, workers=1), tasks)]
        two = []
        for _ in range(rounds):
            two.append(wall(RayShardMap(cluster.address, workers=2), tasks))
            _one_worker()
            one.append(wall(RayShardMap(cluster.address, workers=1), tasks))
    finally:
        ended(cluster)
    speed = statistics.median(one) / statistics.median(two)
    return {"one_s": round(statistics.median(one), 2), "two_s": round(statistics.median(two), 2), "x": round(speed, 3)}


def _one_worker() -> None:
    from pipelines.engines.ray_pool import close_pools

    close_pools()


def loss(count: int, seconds: float, sleep: bool, rounds: int) -> dict[str, Any]:
    """One of two nodes is killed when half of the shards are done."""
    from pipelines.engines.ray_shard_map import RayShardMap

    redone = []
    cluster = started(2)
    try:
        for _ in range(rounds):
            extra = cluster.add_node(num_cpus=1, object_store_memory=STORE)
            with tempfile.TemporaryDirectory() as calls:
                found = []
                for index, _ in RayShardMap(cluster.address).map(compute, work(count, seconds, sleep, calls)):
                    found.append(index)
                    if len(found) == count // 2:
                        cluster.remove_node(extra, allow_graceful=False)
                assert sorted(found) == list(range(count)), "every shard once"
                redone.append(len(list(Path(calls).iterdir())) - count)
    finally:
        ended(cluster)
    return {"shards": count, "nodes_lost": 1, "redone": redone}


KINDS = {"overhead": overhead, "scaling": scaling, "loss": loss}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=0.05)
    parser.add_argument("--sleep", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=sorted(KINDS), default=list(KINDS))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {options.tasks} shards of {options.seconds} s")
    results = {}
    for name in options.only:
        results[name] = KINDS[name](options.tasks, options.seconds, options.sleep, options.rounds)
        print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in results[name].items()), flush=True)
    if options.out:
        options.out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
