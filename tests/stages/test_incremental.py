"""Batch by batch gives what one batch of everything gives, in any order and however the pool is cut."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dinov2_core import manifest, stage, tables
from dinov2_core.curation import vectors
from dinov2_core.stages import registry
from dinov2_core.storage import Store
from tests.pictures import finished

DIM = 8


class Pool:
    """Images whose vectors lie in groups: some alone, some with more neighbours than ``k``."""

    def __init__(self, count: int, groups: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        centres = rng.normal(size=(groups, DIM))
        # A few large groups and many small ones.
        members = np.minimum(rng.zipf(1.5, count), groups) - 1
        noise = rng.normal(size=(count, DIM)) * rng.choice([0.05, 0.4], (count, 1))
        self.matrix = vectors.unit((centres[members] + noise).astype(np.float32))
        self.ids = [hashlib.sha256(f"{seed}/{i}".encode()).hexdigest() for i in range(count)]
        self.sides = rng.integers(1, 5, count).tolist()

    def add(self, store: Store, partition: str, images: list[int]) -> None:
        rows = [
            {
                "image_id": self.ids[i],
                "keep": True,
                "reason": "",
                "width": self.sides[i],
                "height": 10,
                "shard": "a",
                "offset": i,
                "length": 1,
            }
            for i in images
        ]
        folder = f"filtered_set/{partition}"
        verdicts = store.write_table(f"{folder}/verdicts-x-0.parquet", tables.from_rows(rows, tables.VERDICTS))
        finished(store, "filtered_set", partition, [verdicts])
        table = vectors.to_table([self.ids[i] for i in images], self.matrix[images].reshape(-1, DIM))
        path = f"copy_embeddings/{partition}/copy_embeddings-x-0.parquet"
        finished(store, "copy_embeddings", partition, [store.write_table(path, table)])
        path = f"benchmark_edges/{partition}/benchmark_edges-x-0.parquet"
        edges = store.write_table(path, tables.BENCHMARK_EDGES.empty_table())
        finished(store, "benchmark_edges", partition, [edges], k=64, threshold=0.45)
        stage.materialise(store, registry.get("copy_edges"), partition, {"k": 3, "threshold": 0.7, "align": False})

    def components(self, store: Store) -> list[dict[str, object]]:
        made = stage.materialise(store, registry.get("deduplicated_set"), params={"threshold": 0.75}).manifest
        return [row for f in made.table("components") for row in store.read_table(f.path).to_pylist()]


@given(
    count=st.integers(1, 60),
    groups=st.integers(1, 12),
    batches=st.integers(1, 4),
    seed=st.integers(0, 9999),
)
@settings(max_examples=8, deadline=None)
def test_the_cut_into_batches_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, count: int, groups: int, batches: int, seed: int
) -> None:
    pool = Pool(count, groups, seed)
    rng = np.random.default_rng(seed)
    cut = rng.integers(0, batches, count)
    # Some images come again in another batch.
    again = rng.random(count) < 0.15
    parts = [
        [i for i in range(count) if cut[i] == b or (again[i] and (cut[i] + 1) % batches == b)] for b in range(batches)
    ]
    whole = Store(str(tmp_path_factory.mktemp("whole")))
    pool.add(whole, "b0", list(range(count)))
    wanted = pool.components(whole)
    for order in itertools.islice(itertools.permutations(range(batches)), 3):
        store = Store(str(tmp_path_factory.mktemp("parts")))
        for turn, which in enumerate(order):
            pool.add(store, f"b{turn}", parts[which])
        assert pool.components(store) == wanted


def test_a_new_batch_does_not_touch_what_earlier_ones_found(store: Store) -> None:
    pool = Pool(50, 5, 0)
    pool.add(store, "b0", list(range(30)))
    before = manifest.read(store, "copy_edges", "b0")
    pool.add(store, "b1", list(range(30, 50)))
    assert manifest.read(store, "copy_edges", "b0") == before
    made = manifest.read(store, "copy_edges", "b1")
    assert made is not None
    assert (made.counts["images"], made.counts["searched"]) == (20, 50)


def test_memory_that_is_all_on_disk_changes_nothing(store: Store) -> None:
    pool = Pool(60, 4, 1)
    pool.add(store, "b0", list(range(60)))
    pool.components(store)
    spec = registry.get("deduplicated_set")
    made = [
        stage.materialise(store, spec, params={"threshold": 0.75, "memory": memory}, force=True).manifest
        for memory in (0, 1 << 30)
    ]
    assert made[0] == made[1]


def test_a_search_by_tasks_finds_the_edges_of_a_search_here(store: Store) -> None:
    pool = Pool(60, 4, 2)
    for batch, images in (("b0", range(35)), ("b1", range(30, 60))):
        pool.add(store, batch, list(images))
        here = manifest.read(store, "copy_edges", batch)
        params = {"k": 3, "threshold": 0.7, "align": False, "by_tasks": True}
        by_tasks = stage.materialise(store, registry.get("copy_edges"), batch, params, force=True)
        assert by_tasks.fresh
        assert by_tasks.manifest == here
        assert here is not None
        assert here.counts["edges"] > 20
