"""The stage ``curated_lvd``: what is trained on. Draws around the seeds, their mix, its composition, training shards.

The rules of drawing and mixing are in ``curation/retrieval``, ``curation/selection`` and ``curation/balanced``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dinov2_core import stage, tables
from dinov2_core.curation import composition, vectors
from dinov2_core.curation.balanced import balanced_sample
from dinov2_core.curation.clustering import assign
from dinov2_core.curation.neighbours import NeighbourSearch
from dinov2_core.curation.retrieval import Draws, cluster_based, sample_based
from dinov2_core.curation.selection import SetRecipe, complete, mix
from dinov2_core.errors import UserError
from dinov2_core.images.decode import EXTENSIONS, Refused, probe
from dinov2_core.images.shards import ShardWriter, read_image
from dinov2_core.stage import StageRun
from dinov2_core.stages.clusters import pool
from dinov2_core.storage import Store

POOL = "pool"
"""The dataset's name in the rows of balanced draws, which no seed set asked for."""


@dataclass(frozen=True)
class Params:
    """``recipe``: how each seed set enters; a set without one follows the paper's rule (``selection.by_size``).

    ``balanced``: this many images more, drawn evenly over the cluster tree of the whole pool.
    """

    recipe: tuple[SetRecipe, ...] = ()
    balanced: int = 0
    seed: int = 0
    images_per_task: int = stage.efficiency(1000)


@dataclass(frozen=True)
class _Pool:
    ids: np.ndarray
    search: NeighbourSearch
    clusters: np.ndarray
    similarity: np.ndarray
    centroids: np.ndarray


def run(run: StageRun) -> dict[str, Any]:
    """Draw for each seed set, mix, count, pack."""
    params: Params = run.params
    seeds = _seed_sets(run)
    sizes = {name: len(rows) for name, rows in seeds.items()}
    recipes = complete(params.recipe, sizes, where=run.where)
    found = _pool(run)
    seed_ids, seed_matrix = vectors.sorted_unique(*vectors.from_table(run.read("seed_embeddings", "embeddings")))
    tasks = _tasks(run)
    rows: list[dict[str, Any]] = []
    lines: list[composition.Line] = []
    taken: list[tuple[str, list[str]]] = []
    collisions = 0
    for recipe in recipes:
        names = np.array(sorted(row["image_id"] for row in seeds[recipe.name]), dtype=str)
        queries = _seed_vectors(run, recipe.name, names, seed_ids, seed_matrix)
        for mode in recipe.modes:
            draws = None if mode == "as is" else _draw(mode, recipe, queries, found, params.seed)
            drawn = names.tolist() if draws is None else found.ids[draws.pool].tolist()
            rows += _as_is(recipe.name, names) if draws is None else _rows(recipe.name, mode, draws, names, found.ids)
            retrieved = len(drawn) if draws is None else draws.retrieved
            collisions += 0 if draws is None else draws.collisions
            task = tasks.get(recipe.name, "")
            lines.append(composition.Line(task, recipe.name, len(names), mode, retrieved, len(drawn)))
            taken.append((f"{recipe.name}, {mode}", drawn))
    if params.balanced:
        drawn = _balanced(run, found, params)
        rows += [_row(POOL, "balanced", name, i) for i, name in enumerate(drawn)]
        lines.append(composition.Line("", POOL, 0, "balanced", len(drawn), len(drawn)))
        taken.append((f"{POOL}, balanced", drawn))
    chosen = mix(taken, seed=params.seed)
    if not chosen:
        raise UserError(
            "the recipe draws no image", where=run.where, todo="lower min_hits, or use the modes 'sample' or 'as is'"
        )
    run.write_table("selections", tables.from_rows(rows, tables.SELECTIONS))
    run.write_table("composition", tables.from_rows([asdict(line) for line in lines], tables.COMPOSITION))
    run.write_file("composition", "md", composition.markdown(lines).encode())
    _pack(run, chosen, seeds)
    sources = [source for _, source in chosen]
    return {
        "pool": len(found.ids),
        "draws": len(rows),
        "collisions": collisions,
        "images": len(chosen),
        "sources": {source: sources.count(source) for source in sorted(set(sources))},
    }


def _seed_sets(run: StageRun) -> dict[str, list[dict[str, Any]]]:
    """Rows of each seed set by its name, each image once."""
    sets: dict[str, dict[str, dict[str, Any]]] = {}
    for row in run.read("seed_sets", "labelled").to_pylist():
        sets.setdefault(row["dataset"], {}).setdefault(row["image_id"], row)
    if not sets:
        raise UserError("there are no seeds", where=run.where, todo="give seed_sets a set with at least one image")
    return {name: list(rows.values()) for name, rows in sorted(sets.items())}


def _tasks(run: StageRun) -> dict[str, str]:
    """What each seed set is for (the first column of the paper's table 15), as its stage was told."""
    return {s["name"]: s.get("task", "") for m in run.manifests("seed_sets") for s in m.params.get("sets", ())}


def _pool(run: StageRun) -> _Pool:
    ids, matrix = pool(run)
    table = run.read("clusters", "clusters").to_pydict()
    place = {name: i for i, name in enumerate(table["image_id"])}
    order = [place[name] for name in ids.tolist()]
    _, centroids = vectors.from_table(run.read("clusters", "centroids"))
    return _Pool(
        ids,
        NeighbourSearch(matrix),
        np.array(table["cluster"], dtype=np.int64)[order],
        np.array(table["similarity"], dtype=np.float32)[order],
        centroids,
    )


def _seed_vectors(run: StageRun, name: str, wanted: np.ndarray, ids: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    places = np.searchsorted(ids, wanted).clip(0, max(0, len(ids) - 1))
    missing = len(wanted) if not len(ids) else int((ids[places] != wanted).sum())
    if missing:
        raise UserError(
            f"{missing} seeds of '{name}' have no embedding", where=run.where, todo="materialise seed_embeddings"
        )
    return matrix[places]


def _draw(mode: str, recipe: SetRecipe, queries: np.ndarray, found: _Pool, seed: int) -> Draws:
    if mode == "sample":
        return sample_based(queries, found.search, recipe.k)
    hit, _ = assign(queries, found.centroids)
    return cluster_based(
        hit,
        found.clusters,
        found.similarity,
        min_hits=recipe.min_hits,
        per_cluster=recipe.per_cluster,
        cap=recipe.cap,
        seed=seed,
    )


def _row(dataset: str, mode: str, name: str, rank: int) -> dict[str, Any]:
    return {"image_id": name, "dataset": dataset, "mode": mode, "cluster": -1, "rank": rank}


def _as_is(dataset: str, names: np.ndarray) -> list[dict[str, Any]]:
    return [_row(dataset, "as is", name, i) for i, name in enumerate(names.tolist())]


def _rows(dataset: str, mode: str, draws: Draws, seeds: np.ndarray, ids: np.ndarray) -> list[dict[str, Any]]:
    return [
        {
            "image_id": ids[pool_index],
            "dataset": dataset,
            "mode": mode,
            "seed_id": seeds[query] if query >= 0 else None,
            "cluster": cluster,
            "similarity": similarity,
            "rank": rank,
        }
        for pool_index, query, cluster, similarity, rank in zip(
            draws.pool.tolist(),
            draws.query.tolist(),
            draws.cluster.tolist(),
            draws.similarity.tolist(),
            draws.rank.tolist(),
            strict=True,
        )
    ]


def _balanced(run: StageRun, found: _Pool, params: Params) -> list[str]:
    levels = [found.clusters]
    if any(m.table("tree") for m in run.manifests("clusters")):
        tree = run.read("clusters", "tree").to_pydict()
        level, parent = np.array(tree["level"]), np.array(tree["parent"])
        # Rows are written in order of cluster.
        levels += [parent[level == depth] for depth in np.unique(level)]
    return found.ids[balanced_sample(levels, params.balanced, seed=params.seed)].tolist()


def _pack(run: StageRun, chosen: list[tuple[str, str]], seeds: Mapping[str, list[dict[str, Any]]]) -> None:
    """Copy the chosen images' bytes, in the mix's order, into training shards."""
    columns = ["image_id", *(name for name, _ in tables.LOCATION)]
    location = {row["image_id"]: row for rows in seeds.values() for row in rows}
    # A pool image that is also a seed is taken from the pool: its faces have been blurred there.
    location |= {row["image_id"]: row for row in run.read("deduplicated_set", "components", columns).to_pylist()}
    size = run.params.images_per_task
    tasks = {
        f"{start // size:05d}": {
            "images": [
                {"image_id": name, "source": source, **{key: location[name][key] for key in columns[1:]}}
                for name, source in chosen[start : start + size]
            ],
            "folder": run.folder,
        }
        for start in range(0, len(chosen), size)
    }
    run.map(_pack_task, tasks, label="packing", unit=lambda summary: int(summary["images"]), total=len(chosen))


def _pack_task(task: Mapping[str, Any]) -> dict[str, Any]:
    store = Store(task["root"])
    images = [dict(row) for row in task["images"]]
    with ShardWriter(store, task["folder"], max_images=max(1, len(images))) as writer:
        for row in images:
            data = read_image(store, row)
            kind = probe(data)
            # The filter and the seeds' stage have decoded every image that gets here.
            assert not isinstance(kind, Refused)
            writer.add(data, EXTENSIONS[kind.format], identity=row["image_id"])
    rows = [{**row, **writer.locations[row["image_id"]]} for row in images]
    path = task["stem"].format(name="packed") + ".parquet"
    packed = store.write_table(path, tables.from_rows(rows, tables.PACKED))
    return {"files": [*writer.files, packed], "images": len(images)}
