"""Global steps by tasks: the pairs, labels and centroids of one pass, however the work is cut, and after a kill."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dinov2_core.curation import sharded_components, sharded_kmeans, sharded_search
from dinov2_core.curation.clustering import assign
from dinov2_core.curation.components import connected_components
from dinov2_core.curation.matrix_files import MatrixFiles
from dinov2_core.curation.neighbours import Neighbours, NeighbourSearch
from dinov2_core.curation.vectors import StoredRows, unit
from dinov2_core.manifest import WHOLE
from dinov2_core.shard_map import InlineShardMap, ProcessShardMap, ShardMap
from dinov2_core.stage import StageRun, StageSpec
from dinov2_core.storage import Store


def mapped(folder: Path, engine: ShardMap | None = None) -> sharded_search.Map:
    """The ``map`` of a stage's run on ``engine``, with its done-markers."""
    spec = StageSpec("global", "toy", "", run="", params="")
    own = engine or InlineShardMap()
    return StageRun(spec, Store(str(folder)), WHOLE, None, "f" * 64, {}, own, lambda *_: None).map


def points(count: int, dim: int = 16, seed: int = 0) -> np.ndarray:
    """float16 rows with exact copies among them: ties."""
    rows = np.random.default_rng(seed).normal(size=(count, dim))
    rows[count // 2 :: 7] = rows[: len(rows[count // 2 :: 7])]
    return unit(rows.astype(np.float32)).astype(np.float16)


def same(one: Neighbours, other: Neighbours) -> bool:
    return all(np.array_equal(getattr(one, n), getattr(other, n)) for n in ("query", "pool", "similarity"))


@pytest.fixture
def files(tmp_path: Path) -> MatrixFiles:
    return MatrixFiles.write(Store(str(tmp_path)), "rows", points(700), part=96)


@pytest.mark.parametrize(("query_block", "pool_block"), [(1000, 1000), (100, 1000), (1000, 90), (128, 250)])
@pytest.mark.parametrize(("k", "threshold"), [(8, -np.inf), (64, 0.3)])
def test_tiles_find_the_pairs_of_one_search(
    files: MatrixFiles, tmp_path: Path, query_block: int, pool_block: int, k: int, threshold: float
) -> None:
    rows = StoredRows(points(700))
    found = sharded_search.search(
        mapped(tmp_path),
        "tiles",
        files,
        files,
        k=k,
        threshold=threshold,
        query_block=query_block,
        pool_block=pool_block,
    )
    wanted = Neighbours.joined(NeighbourSearch(rows).stream(rows, k, threshold))
    assert len(wanted.query) > 700
    assert same(Neighbours.joined(found), wanted)


@pytest.mark.parametrize("index", [slice(0, 700), slice(95, 97), slice(300, 300), np.array([5, 699, 96, 5])])
def test_rows_of_a_matrix_on_storage_are_those_that_were_written(files: MatrixFiles, index: Any) -> None:
    assert np.array_equal(files[index], StoredRows(points(700))[index])
    assert MatrixFiles.of(files.task()) == files


def test_parts_that_are_there_are_not_written_again(files: MatrixFiles, tmp_path: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "rows").iterdir()}
    assert len(before) == 8
    MatrixFiles.write(Store(str(tmp_path)), "rows", points(700), part=96)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "rows").iterdir()} == before


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=30), max_size=5))
def test_partial_labels_merge_to_the_components_of_all_edges(parts: list[list[tuple[int, int]]]) -> None:
    arrays = [np.array(part, np.int64).reshape(-1, 2) for part in parts]
    wanted = connected_components(41, ((a[:, 0], a[:, 1]) for a in arrays))
    forests = [sharded_components.forest(a) for a in arrays]
    assert np.array_equal(connected_components(41, ((f[:, 0], f[:, 1]) for f in forests)), wanted)
    for forest, edges in zip(forests, arrays, strict=True):
        assert len(forest) <= max(0, len(np.unique(edges)) - 1)


def test_components_of_files_are_those_of_one_pass_on_any_engine(tmp_path: Path) -> None:
    store, random = Store(str(tmp_path)), np.random.default_rng(0)
    edges = random.integers(0, 5000, (4000, 2))
    paths = []
    for start in range(0, 4000, 900):
        buffer = io.BytesIO()
        np.save(buffer, edges[start : start + 900])
        paths.append(store.write_bytes(f"edges/{start:05d}.npy", buffer.getvalue()).path)
    run = mapped(tmp_path, ProcessShardMap(2))
    found = sharded_components.components(run, store, "forests", paths, 5000)
    assert np.array_equal(found, connected_components(5000, [(edges[:, 0], edges[:, 1])]))


def test_kmeans_by_tasks_is_the_plain_algorithm_whatever_the_engine(files: MatrixFiles, tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    rows = files[:]
    drawn = np.sort(np.random.default_rng(3).permutation(700)[:12])
    plain = rows[drawn]
    for _ in range(6):
        cluster, _ = assign(rows, plain)
        sums = [rows[cluster == c].astype(np.float64).sum(axis=0) for c in range(12)]
        plain = unit(np.array(sums))
    made = []
    for name, engine in (("inline", InlineShardMap()), ("processes", ProcessShardMap(2))):
        own = Store(str(tmp_path / name))
        again = MatrixFiles.write(own, "rows", points(700), part=96)
        run = mapped(tmp_path / name, engine)
        made.append(sharded_kmeans.kmeans(run, own, "k", again, 12, seed=3, iterations=6, block=150))
    assert np.array_equal(made[0], made[1])
    assert np.allclose(made[0], plain, atol=1e-6)
    assert not [name for name in store.find("inline/k") if name.endswith(".npz")]


def test_kmeans_that_was_killed_goes_on_from_its_last_whole_iteration(files: MatrixFiles, tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    work: list[str] = []

    def counted(stop: int) -> sharded_search.Map:
        run = mapped(tmp_path)

        def go(function: Any, tasks: Mapping[str, Any], **more: Any) -> Any:
            work.extend(tasks)
            if len(work) > stop:
                raise KeyboardInterrupt
            return run(function, tasks, **more)

        return go

    with pytest.raises(KeyboardInterrupt):
        sharded_kmeans.kmeans(counted(12), store, "k", files, 12, seed=3, iterations=5, block=150)
    work.clear()
    again = sharded_kmeans.kmeans(counted(1000), store, "k", files, 12, seed=3, iterations=5, block=150)
    assert min(work).startswith("step-0002-")
    other = Store(str(tmp_path / "other"))
    fresh = MatrixFiles.write(other, "rows", points(700), part=96)
    whole = sharded_kmeans.kmeans(mapped(tmp_path / "other"), other, "k", fresh, 12, seed=3, iterations=5, block=150)
    assert np.array_equal(again, whole)


def test_an_empty_cluster_splits_a_large_one(tmp_path: Path) -> None:
    rows = np.repeat(np.eye(4, 8, dtype=np.float16), [40, 1, 1, 1], axis=0)
    store = Store(str(tmp_path))
    files = MatrixFiles.write(store, "rows", rows)
    centroids = sharded_kmeans.kmeans(mapped(tmp_path), store, "k", files, 6, seed=1, iterations=4)
    assert np.isfinite(centroids).all()
    assert np.allclose(np.linalg.norm(centroids, axis=1), 1, atol=1e-5)
