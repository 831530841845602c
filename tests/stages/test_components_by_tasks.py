"""Copies joined by the engine's workers are the components that one process finds: the same manifest, byte for byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dinov2_core import stage
from dinov2_core.manifest import WHOLE
from dinov2_core.shard_map import InlineShardMap, ProcessShardMap
from dinov2_core.stages import registry
from dinov2_core.storage import Store
from tests.stages import edge_world


def made(folder: Path, engine: Any, **params: Any) -> bytes:
    store = Store(str(folder))
    edge_world.write(store)
    stage.materialise(store, registry.get("deduplicated_set"), WHOLE, params, shard_map=engine)
    return store.read_bytes(f"deduplicated_set/{WHOLE}/manifest.json")


class Elsewhere:
    """An engine that is not this machine's, as far as a stage can tell."""

    def __init__(self) -> None:
        self.tasks = 0

    def map(self, function: Any, tasks: Any, **more: Any) -> Any:
        self.tasks += len(tasks)
        return InlineShardMap().map(function, tasks, **more)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return made(tmp_path_factory.mktemp("plain"), InlineShardMap())


def test_the_world_has_copies_leaks_and_cut_edges(plain: bytes) -> None:
    counts = json.loads(plain)["counts"]
    assert counts["components"] < counts["images"] == 2 * edge_world.IMAGES
    assert counts["leaks_dropped"] > 0
    assert 0 < counts["copy_edges"] < counts["edges"]


def test_above_a_number_of_edges_local_workers_join_them(plain: bytes, tmp_path: Path) -> None:
    assert made(tmp_path, ProcessShardMap(2), edges_per_task=20) == plain


def test_on_a_cluster_they_always_do(plain: bytes, tmp_path: Path) -> None:
    engine = Elsewhere()
    assert made(tmp_path, engine, edges_per_task=1 << 22) == plain
    assert engine.tasks == 1
    assert not (tmp_path / "deduplicated_set" / WHOLE / ".progress").exists()
