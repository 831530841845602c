"""Shards on a Ray cluster of several nodes: what local processes give, whatever dies on the way."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from dinov2_core import stage
from dinov2_core.errors import UserError
from dinov2_core.manifest import WHOLE
from dinov2_core.shard_map import ProcessShardMap, QuarantineError, Resources
from dinov2_core.stages import registry
from dinov2_core.storage import Store
from pipelines.engines.ray_shard_map import RayShardMap
from tests.engines import shards
from tests.engines.conftest import STORE, node
from tests.stages import edge_world

pytestmark = pytest.mark.slow


def tasks(folder: Path, count: int, **more: Any) -> list[dict[str, Any]]:
    return [{"n": n, "key": f"{n:05d}", "calls": str(folder), **more} for n in range(count)]


def manifest(store: Store) -> bytes:
    return store.read_bytes(f"numbers/{WHOLE}/manifest.json")


def gathered(results: Iterator[tuple[int, Any]]) -> tuple[list[int], dict[str, str]]:
    """The shards that were done, and the reasons of those that were set aside."""
    found = []
    try:
        for index, _ in results:
            found.append(index)
    except QuarantineError as error:
        return sorted(found), dict(error.reasons)
    return sorted(found), {}


def locally(folder: Path, count: int) -> bytes:
    """The manifest that this process alone makes of the stage."""
    store = Store(str(folder / "local"))
    stage.materialise(store, shards.SPEC, WHOLE, shards.Params(count, str(folder / "local-calls")))
    return manifest(store)


def test_every_task_runs_once_on_both_nodes_one_thread_each(cluster: Any, tmp_path: Path) -> None:
    results = dict(RayShardMap(cluster.address).map(shards.square, tasks(tmp_path, 20, seconds=0.2)))
    local = dict(ProcessShardMap(1).map(shards.square, tasks(tmp_path / "local", 20)))
    assert {i: r["square"] for i, r in results.items()} == {i: r["square"] for i, r in local.items()}
    assert shards.calls(tmp_path) == 20
    assert len({r["pid"] for r in results.values()}) == 2
    assert {r["threads"] for r in results.values()} == {"1"}


def test_a_stage_gives_the_same_manifest_byte_for_byte(cluster: Any, tmp_path: Path) -> None:
    store = Store(str(tmp_path / "ray"))
    params = shards.Params(6, str(tmp_path / "calls"))
    stage.materialise(store, shards.SPEC, WHOLE, params, shard_map=RayShardMap(cluster.address))
    assert manifest(store) == locally(tmp_path, 6)


def test_copies_are_joined_by_workers_of_both_nodes_to_the_same_manifest(cluster: Any, tmp_path: Path) -> None:
    made = {}
    for name, engine in (("ray", RayShardMap(cluster.address)), ("local", ProcessShardMap(1))):
        store = Store(str(tmp_path / name))
        edge_world.write(store)
        spec = registry.get("deduplicated_set")
        stage.materialise(store, spec, WHOLE, {"edges_per_task": 40}, shard_map=engine)
        made[name] = store.read_bytes(f"deduplicated_set/{WHOLE}/manifest.json")
    assert made["ray"] == made["local"]


def test_models_stay_loaded_from_one_map_to_the_next(cluster: Any, tmp_path: Path) -> None:
    engine = RayShardMap(cluster.address)
    work = [{"version": "a"} for _ in range(10)]
    seen = [r for _ in range(2) for _, r in engine.map(shards.with_model, work)]
    assert len({r["model"] for r in seen}) == len({r["pid"] for r in seen}) <= 2


def test_pixels_do_not_pass_through_the_object_store(cluster: Any, tmp_path: Path) -> None:
    import ray

    size = 20 << 20
    for n in range(6):
        (tmp_path / f"{n}.tar").write_bytes(bytes([n]) * size)

    def used() -> float:
        return 3 * STORE - ray.available_resources().get("object_store_memory", 0.0)

    most = 0.0
    for _, row in RayShardMap(cluster.address).map(
        shards.read_pixels, [{"shard": str(tmp_path / f"{n}.tar")} for n in range(6)]
    ):
        assert row["bytes"] == size
        most = max(most, used())
    assert most < 1 << 20
    held = ray.put(bytes(size))
    until = time.monotonic() + 20
    while used() < size and time.monotonic() < until:
        time.sleep(0.2)
    assert used() >= size, "the measure would not have seen them"
    del held


def test_few_shards_are_given_out_at_a_time(cluster: Any, tmp_path: Path) -> None:
    class Counted(Sequence[dict[str, Any]]):
        """Many tasks that are made when they are asked for."""

        def __init__(self) -> None:
            self.asked: set[int] = set()

        def __len__(self) -> int:
            return 300

        def __getitem__(self, index: Any) -> Any:
            self.asked.add(index)
            return {"n": index, "calls": str(tmp_path)}

    work = Counted()
    for done, _ in enumerate(RayShardMap(cluster.address).map(shards.square, work)):
        assert len(work.asked) <= done + 1 + 2 * 2
    assert len(work.asked) == 300


def test_a_straggler_is_given_to_a_second_worker_and_the_first_result_counts(cluster: Any, tmp_path: Path) -> None:
    engine = RayShardMap(cluster.address, patience=2.0)
    began = time.monotonic()
    results = dict(engine.map(shards.slow_at_first, tasks(tmp_path, 8, slow=5)))
    assert results == {n: {"n": n} for n in range(8)}
    assert time.monotonic() - began < 60
    assert shards.calls(tmp_path, 5) == 2


def test_a_poisoned_shard_is_set_aside_with_its_reason_and_the_rest_completes(cluster: Any, tmp_path: Path) -> None:
    store, poison = Store(str(tmp_path / "ray")), tmp_path / "poison"
    poison.touch()
    params = shards.Params(6, str(tmp_path / "calls"), str(poison))
    engine = RayShardMap(cluster.address)
    with pytest.raises(QuarantineError, match=r"numbers: 1 shards were set aside: 00003 \(ValueError: not enough"):
        stage.materialise(store, shards.SPEC, WHOLE, params, shard_map=engine)
    assert shards.calls(tmp_path / "calls", 3) == 3
    (noted,) = [name for name in store.find(f"numbers/{WHOLE}/.progress") if name.endswith(stage.QUARANTINE)]
    assert json.loads(store.read_bytes(noted)) == {"00003": "ValueError: not enough pixels in row 7"}
    poison.unlink()
    stage.materialise(store, shards.SPEC, WHOLE, params, shard_map=engine)
    assert shards.calls(tmp_path / "calls") == 6 + 3
    assert manifest(store) == locally(tmp_path, 6)


def test_a_mistake_of_the_user_comes_back_whole_and_ends_the_map_soon(cluster: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        list(RayShardMap(cluster.address).map(shards.no_such_model, tasks(tmp_path, 200)))
    assert str(caught.value) == "filtered_set[b1]: no such model — run `make parts`"
    assert shards.calls(tmp_path) < 20


def test_a_shard_whose_worker_dies_is_tried_again_and_set_aside_if_it_kills_each(cluster: Any, tmp_path: Path) -> None:
    found, reasons = gathered(RayShardMap(cluster.address).map(shards.dies, tasks(tmp_path, 6)))
    assert found == [0, 1, 3, 4, 5]
    assert list(reasons) == ["00002"]
    assert reasons["00002"].startswith("its worker died: ")
    assert (shards.calls(tmp_path, 1), shards.calls(tmp_path, 2)) == (2, 3)


def test_a_shard_that_takes_too_long_each_time_is_set_aside(cluster: Any, tmp_path: Path) -> None:
    engine = RayShardMap(cluster.address, retries=0, timeout=3.0)
    work = tasks(tmp_path, 3)
    work[1]["seconds"] = 120
    with pytest.raises(QuarantineError, match=r"00001 \(its worker died: no result after 3 s\); all others are done"):
        list(engine.map(shards.square, work))


def test_a_data_root_that_the_machines_do_not_have_is_named(cluster: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the data root is not on the machine .*use an object store"):
        list(RayShardMap(cluster.address).map(shards.square, tasks(tmp_path, 3, root=str(tmp_path / "elsewhere"))))


def test_long_client_connections_are_refused() -> None:
    with pytest.raises(UserError, match="dashboard's http:// address"):
        list(RayShardMap("ray://head:10001").map(shards.square, [{}]))


class TestNodes:
    """What joins, runs out of memory and dies in the middle of a map."""

    def test_a_node_that_joins_is_used_and_one_that_dies_costs_no_more_than_its_shard(
        self, cluster: Any, tmp_path: Path
    ) -> None:
        store, folder = Store(str(tmp_path / "ray")), tmp_path / "calls"
        count = 40
        extra = node(cluster)
        seen: list[int] = []

        class Watched(RayShardMap):
            def map(self, *arguments: Any, **more: Any) -> Any:
                for result in super().map(*arguments, **more):
                    seen.append(result[0])
                    if len(seen) == count // 2:
                        cluster.remove_node(extra, allow_graceful=False)
                    yield result

        params = shards.Params(count, str(folder), seconds=0.4)
        stage.materialise(store, shards.SPEC, WHOLE, params, shard_map=Watched(cluster.address))
        workers = {path.name.rsplit("-", 1)[1] for path in folder.iterdir()}
        assert len(workers) == 3
        assert sorted(seen) == list(range(count))
        assert shards.calls(folder) - count <= 1, "one worker died: no more than one shard is done again"
        assert manifest(store) == locally(tmp_path, count)

    @pytest.mark.parametrize("once", [True, False])
    def test_a_shard_out_of_memory_is_tried_again_and_set_aside_if_it_stays_so(
        self, cluster: Any, roomy: Any, tmp_path: Path, once: bool
    ) -> None:
        engine = RayShardMap(cluster.address, retries=1, patience=300)
        work = tasks(tmp_path, 4, once=once, blocks=28)
        found, reasons = gathered(engine.map(shards.greedy, work, resources=Resources(memory=2 << 30)))
        assert found == ([0, 1, 2, 3] if once else [0, 2, 3])
        assert reasons == ({} if once else {"00001": "its worker died: out of memory"})
        assert shards.calls(tmp_path, 1) == 2

    @pytest.fixture(scope="class")
    def roomy(self, cluster: Any) -> Any:
        """A node that says it has more memory than the others, and ends workers 3 GiB above what is used now."""
        from ray._private import utils

        patch = pytest.MonkeyPatch()
        share = (utils.get_used_memory() + (3 << 30)) / utils.get_system_memory()
        patch.setenv("RAY_memory_usage_threshold", f"{share:.4f}")
        patch.setenv("RAY_memory_monitor_refresh_ms", "50")
        extra = node(cluster, memory=4 << 30)
        patch.undo()
        yield extra
        cluster.remove_node(extra)


def test_a_program_that_is_killed_and_started_again_goes_on(cluster: Any, tmp_path: Path) -> None:
    store, folder, count = Store(str(tmp_path / "ray")), tmp_path / "calls", 12
    code = f"""
from dinov2_core import stage
from dinov2_core.stages import registry
from dinov2_core.storage import Store
from pipelines.engines.ray_shard_map import RayShardMap
from tests.engines import shards
params = shards.Params({count}, {str(folder)!r}, seconds=0.5)
stage.materialise(Store({store.root!r}), shards.SPEC, params=params, shard_map=RayShardMap({cluster.address!r}))
"""
    program = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while shards.calls(folder) < count // 2 and time.monotonic() < until:
        time.sleep(0.1)
    program.send_signal(signal.SIGKILL)
    program.wait()
    assert not store.exists(f"numbers/{WHOLE}/manifest.json")
    params = shards.Params(count, str(folder), seconds=0.5)
    stage.materialise(store, shards.SPEC, WHOLE, params, shard_map=RayShardMap(cluster.address))
    assert manifest(store) == locally(tmp_path, count)
    # Two workers were at one shard each, and may have begun the next.
    assert count <= shards.calls(folder) <= count + 4
