"""The stage ``curated_lvd``: what is trained on. Draws around the seeds, their mix, its composition, training shards.

The rules of drawing and mixing are in ``curation/retrieval``, ``curation/selection`` and ``curation/balanced``; packing
is in ``curated_shards``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from dinov2_core import stage, tables
from dinov2_core.curation import composition, vectors
from dinov2_core.curation.balanced import balanced_sample
from dinov2_core.curation.clustering import assign
from dinov2_core.curation.image_index import ImageIndex, to_bytes
from dinov2_core.curation.neighbours import NeighbourSearch
from dinov2_core.curation.retrieval import Draws, cluster_based, sample_based, seed_floor
from dinov2_core.curation.scratch import MEMORY, Scratch
from dinov2_core.curation.selection import SetRecipe, complete, mix
from dinov2_core.curation.vectors import PickedRows, Rows, StoredRows
from dinov2_core.errors import UserError
from dinov2_core.stage import StageRun
from dinov2_core.stages import curated_shards, pool_tables
from dinov2_core.stages.clusters import pool
from dinov2_core.stages.seed_leaks import leaking

POOL = "pool"
"""The dataset's name in the rows of balanced draws, which no seed set asked for."""


@dataclass(frozen=True)
class Params:
    """``recipe``: how each seed set enters; a set without one follows the paper's rule (``selection.by_size``).

    ``balanced``: this many images more, drawn evenly over the cluster tree of the whole pool. ``memory``: bytes for
    arrays over the pool, which go to files beyond it.
    """

    recipe: tuple[SetRecipe, ...] = ()
    balanced: int = 0
    seed: int = 0
    images_per_task: int = stage.efficiency(1000)
    device: str = stage.efficiency("cpu")
    memory: int = stage.efficiency(MEMORY)


@dataclass(frozen=True)
class _Pool:
    index: ImageIndex
    search: NeighbourSearch
    clusters: np.ndarray
    similarity: np.ndarray
    centroids: np.ndarray
    scratch: Scratch


@dataclass(frozen=True)
class _Seeds:
    """The seed images of all sets, those that leak left out, and which of them each set has."""

    index: ImageIndex
    rows: dict[str, dict[str, Any]]
    matrix: StoredRows
    sets: dict[str, np.ndarray]
    leaked: int


@dataclass(frozen=True)
class _Drawn:
    """What one set draws in one mode: numbers of images, the pool's first and then the seeds'."""

    source: str
    images: np.ndarray
    line: composition.Line
    collisions: int


def run(run: StageRun) -> dict[str, Any]:
    """Draw for each seed set, mix, count, pack."""
    params: Params = run.params
    with pool_tables.scratch(params.memory) as scratch:
        found = _pool(run, scratch)
        seeds = _seeds(run, scratch)
        recipes = complete(params.recipe, {name: len(at) for name, at in seeds.sets.items()}, where=run.where)
        tasks = {s["name"]: s.get("task", "") for m in run.manifests("seed_sets") for s in m.params.get("sets", ())}
        drawn: list[_Drawn] = []
        rows = 0
        for recipe in recipes:
            for mode in recipe.modes:
                table, one = _draw(mode, recipe, seeds, found, params.seed, tasks.get(recipe.name, ""))
                rows += _write_draws(run, table, len(drawn))
                drawn.append(one)
        if params.balanced:
            table, one = _balanced(run, found, params)
            rows += _write_draws(run, table, len(drawn))
            drawn.append(one)
        names = scratch.empty(len(found.index) + len(seeds.index), found.index.ids.dtype)
        names[: len(found.index)], names[len(found.index) :] = found.index.ids, seeds.index.ids
        # A seed that the pool keeps as well is the pool's image: its faces have been blurred there.
        same = found.index.find(seeds.index.ids)
        for one in drawn:
            seed = one.images >= len(found.index)
            own = one.images[seed] - len(found.index)
            one.images[seed] = np.where(same[own] >= 0, same[own], one.images[seed])
        chosen, source = mix([one.images for one in drawn], names, seed=params.seed, scratch=scratch)
        if not len(chosen):
            raise UserError(
                "the recipe draws no image",
                where=run.where,
                todo="lower min_hits, or use the modes 'sample' or 'as is'",
            )
        lines = [one.line for one in drawn]
        run.write_table("composition", tables.from_rows([asdict(line) for line in lines], tables.COMPOSITION))
        run.write_file("composition", "md", composition.markdown(lines).encode())
        sources = [one.source for one in drawn]
        curated_shards.pack(run, found.index, seeds.index, seeds.rows, chosen, source, sources, scratch)
        counts = np.bincount(source, minlength=len(sources)).tolist()
        return {
            "pool": len(found.index),
            "draws": rows,
            # Draws of an image that its own set and mode, or that any, had drawn already.
            "collisions": sum(one.collisions for one in drawn),
            "cross_collisions": sum(len(one.images) for one in drawn) - len(chosen),
            "leaking_seeds": seeds.leaked,
            "images": len(chosen),
            "sources": {name: count for name, count in sorted(zip(sources, counts, strict=True)) if count},
        }


def _pool(run: StageRun, scratch: Scratch) -> _Pool:
    index, matrix = pool(run, scratch)
    clusters, similarity = scratch.full(len(index), np.int32, 0), scratch.full(len(index), np.float32, 0)
    for block in pool_tables.blocks(run, "clusters", "clusters"):
        at = index.find(pool_tables.ids(block))
        clusters[at], similarity[at] = block.column("cluster").to_numpy(), block.column("similarity").to_numpy()
    _, centroids = vectors.from_table(run.read("clusters", "centroids"))
    search = pool_tables.search(matrix, scratch, device=run.params.device)
    return _Pool(index, search, clusters, similarity, centroids, scratch)


def _seeds(run: StageRun, scratch: Scratch) -> _Seeds:
    """The seeds that are no benchmark's images.

    A seed enters the set as it is, so it must not leak either: it is left out where it is an evaluation image itself,
    where the pool holds it and has dropped it as a leak, or where it is a copy of one (``seed_leaks``).
    """
    table = run.read("seed_sets", "labelled")
    if not len(table):
        raise UserError("there are no seeds", where=run.where, todo="give seed_sets a set with at least one image")
    rows = {row["image_id"]: row for row in reversed(table.to_pylist())}
    index = ImageIndex.build([to_bytes(table.column("image_id"))], len(table), scratch)
    leaks, judged = np.zeros(len(index), bool), np.zeros(len(index), bool)
    for block in pool_tables.blocks(run, "deduplicated_set", "components"):
        at = index.find(pool_tables.ids(block))
        here = np.flatnonzero(at >= 0)
        judged[at[here]] = True
        for row in block.take(pa.array(here)).to_pylist():
            # The pool's bytes: there its faces have been blurred.
            rows[row["image_id"]] |= {name: row[name] for name in pool_tables.LOCATION}
        dropped = [reason.startswith("leak of") for reason in block.column("reason").take(pa.array(here)).to_pylist()]
        leaks[at[here]] |= np.array(dropped, bool)
    for block in pool_tables.blocks(run, "benchmark_sets", "copy_embeddings", ["image_id"]):
        at = index.find(pool_tables.ids(block))
        leaks[at[at >= 0]] = True
    apart = np.flatnonzero(~leaks & ~judged)
    leaks[apart] = leaking(run, [rows[name] for name in index.text(apart).to_pylist()])
    _, matrix, missing = pool_tables.embeddings(run, "seed_embeddings", "embeddings", scratch, index)
    if missing:
        raise UserError(f"{missing} seeds have no embedding", where=run.where, todo="materialise seed_embeddings")
    datasets = np.array(table.column("dataset").to_pylist(), dtype=str)
    at = index.find(to_bytes(table.column("image_id")))
    sets = {str(name): np.unique(at[(datasets == name) & ~leaks[at]]) for name in np.unique(datasets)}
    return _Seeds(index, rows, matrix, sets, int(leaks.sum()))


def _draw(mode: str, recipe: SetRecipe, seeds: _Seeds, found: _Pool, seed: int, task: str) -> tuple[pa.Table, _Drawn]:
    """The rows of the table ``selections``, and what is drawn."""
    at = seeds.sets[recipe.name]
    source = f"{recipe.name}, {mode}"
    if mode == "as is":
        line = composition.Line(task, recipe.name, len(at), mode, len(at), len(at))
        table = _table(seeds.index.text(at), recipe.name, mode, np.arange(len(at)))
        return table, _Drawn(source, at + len(found.index), line, 0)
    draws = _retrieve(mode, recipe, PickedRows(seeds.matrix, at), found, seed)
    by = None
    if mode == "sample":
        by = seeds.index.text(at[draws.query])
    ids = found.index.text(draws.pool)
    table = _table(ids, recipe.name, mode, draws.rank, seed=by, cluster=draws.cluster, similarity=draws.similarity)
    line = composition.Line(task, recipe.name, len(at), mode, draws.retrieved, len(draws.pool))
    return table, _Drawn(source, draws.pool.copy(), line, draws.collisions)


def _retrieve(mode: str, recipe: SetRecipe, queries: Rows, found: _Pool, seed: int) -> Draws:
    floor = seed_floor(queries, recipe.floor) if recipe.floor >= 0 else -np.inf
    if mode == "sample":
        return sample_based(queries, found.search, recipe.k, floor=floor)
    hit, _ = assign(queries, found.centroids)
    return cluster_based(
        hit,
        found.clusters,
        found.similarity,
        min_hits=recipe.min_hits,
        per_cluster=recipe.per_cluster,
        cap=recipe.cap,
        min_lift=recipe.min_lift,
        floor=floor,
        seed=seed,
        scratch=found.scratch,
    )


def _table(
    ids: pa.Array,
    dataset: str,
    mode: str,
    rank: np.ndarray,
    *,
    seed: pa.Array | None = None,
    cluster: np.ndarray | None = None,
    similarity: np.ndarray | None = None,
) -> pa.Table:
    count = len(ids)
    columns = [
        ids,
        pa.repeat(pa.scalar(dataset), count),
        pa.repeat(pa.scalar(mode), count),
        pa.nulls(count, pa.string()) if seed is None else seed,
        pa.array(np.full(count, -1, np.int32) if cluster is None else cluster),
        pa.nulls(count, pa.float32()) if similarity is None else pa.array(similarity),
        pa.array(rank.astype(np.int32)),
    ]
    return pa.table(columns, schema=tables.SELECTIONS)


def _write_draws(run: StageRun, table: pa.Table, number: int) -> int:
    run.write_table("selections", table, number)
    return len(table)


def _balanced(run: StageRun, found: _Pool, params: Params) -> tuple[pa.Table, _Drawn]:
    levels = [found.clusters]
    if any(m.table("tree") for m in run.manifests("clusters")):
        tree = run.read("clusters", "tree").to_pydict()
        level, parent = np.array(tree["level"]), np.array(tree["parent"])
        # Rows are written in order of cluster.
        levels += [parent[level == depth] for depth in np.unique(level)]
    drawn = balanced_sample(levels, params.balanced, seed=params.seed, scratch=found.scratch)
    line = composition.Line("", POOL, 0, "balanced", len(drawn), len(drawn))
    table = _table(found.index.text(drawn), POOL, "balanced", np.arange(len(drawn)))
    return table, _Drawn(f"{POOL}, balanced", drawn, line, 0)
