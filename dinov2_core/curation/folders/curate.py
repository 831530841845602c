"""``dinov2 curate``: pool images that are like the seeds, that cover the pool evenly, or both.

The rules of drawing are in ``curation/retrieval``, ``curation/balanced`` and ``curation/clustering``.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa

from dinov2_core.curation import composition, vectors
from dinov2_core.curation.balanced import balanced_sample
from dinov2_core.curation.clustering import assign, hierarchical_kmeans, kmeans
from dinov2_core.curation.folders import reading
from dinov2_core.curation.folders.embed import Vectors, good_rows, vectors_of
from dinov2_core.curation.folders.job import PER_TASK, Job
from dinov2_core.curation.neighbours import NeighbourSearch
from dinov2_core.curation.retrieval import MIN_HITS, PER_CLUSTER, SAMPLE_K, cluster_based, sample_based
from dinov2_core.curation.scratch import MEMORY, Scratch
from dinov2_core.curation.vectors import StoredRows
from dinov2_core.errors import UserError

Mode = Literal["sample", "cluster", "hierarchical", "mix"]
MODES: tuple[str, ...] = get_args(Mode)
SELECTED = pa.schema(
    [
        ("path", pa.string()),
        ("source", pa.string()),  # the mode that drew it: sample | cluster | hierarchical
        ("seed", pa.string()),  # of sample
        ("cluster", pa.int32()),  # of cluster and hierarchical
        ("similarity", pa.float32()),  # to the seed, or to the cluster's centroid
        ("rank", pa.int32()),
    ]
)


@dataclass(frozen=True)
class Recipe:
    """``target``: images at most, 0 for as many as the rules give (hierarchical: a quarter of the pool).

    ``clusters`` 0: a twentieth of the pool, 100,000 at most. The other numbers are the DINOv2 paper's.
    """

    mode: Mode = "sample"
    target: int = 0
    k: int = SAMPLE_K
    clusters: int = 0
    min_hits: int = MIN_HITS
    per_cluster: int = PER_CLUSTER
    seed: int = 0
    memory: int = MEMORY
    """Bytes for the embeddings of pool and seeds; beyond it they lie in temporary files."""


@dataclass(frozen=True)
class _Pool:
    paths: list[str]
    matrix: StoredRows
    seeds: list[str]
    queries: StoredRows


def curate(pool: str, seeds: str, out: str, weights: str, recipe: Recipe, *, workers: int = 0) -> dict[str, Any]:
    """Write ``selected.parquet`` (an image once, best draw first) and ``curate.md``; the counts."""
    job = Job(out, "curate", workers)
    for uri in (seeds, pool):
        # Before hours go into the first of them.
        reading.groups(uri, PER_TASK)
    theirs, ours = vectors_of(job, seeds, weights, "seeds"), vectors_of(job, pool, weights, "pool")
    settings = {name: value for name, value in asdict(recipe).items() if name != "memory"}
    state = {"seeds": theirs.state, "pool": ours.state, "recipe": settings}
    if (said := job.finished(state)) is not None:
        return said
    with Scratch(recipe.memory) as scratch:
        held = _Pool(*_matrix(ours, pool, scratch), *_matrix(theirs, seeds, scratch))
        drawn, rows = _drawn(held, recipe)
    retrieved = Counter(str(row["source"]) for row in drawn)
    final = Counter(str(row["source"]) for row in rows)
    name = seeds.rstrip("/").rpartition("/")[2]
    lines = [composition.Line("", name, len(held.seeds), s, n, final[s]) for s, n in retrieved.items()]
    collisions = len(drawn) - len({row["path"] for row in drawn})
    table = f"{composition.markdown(lines)}\n\n{collisions:,} of {len(drawn):,} draws are of images drawn already."
    if not rows:
        table += f"\n\nNo cluster was hit by more than {recipe.min_hits} seeds: lower `--min-hits` or `--clusters`."
    said = {
        "pool": len(held.paths),
        "seeds": len(held.seeds),
        "drawn": len(drawn),
        "collisions": collisions,
        "selected": len(rows),
        "table": table,
    }
    text = f"# Curated: {len(rows):,} of {len(held.paths):,} images\n\n{table}\n"
    results = {
        "selected.parquet": pa.Table.from_pylist(rows, schema=SELECTED),
        "refused.parquet": job.refused({"--pool": ours.refused(), "--seeds": theirs.refused()}),
    }
    return job.finish(state, results, {"curate.md": text.encode()}, said)


def _drawn(held: _Pool, recipe: Recipe) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Every draw, and the draws that stay: an image once, ``target`` images at most."""
    target = recipe.target or len(held.paths)
    if recipe.mode == "mix":
        # Half by resemblance, the rest by even cover of the pool.
        alike, even = _sample(held, recipe), _hierarchical(held, recipe, target)
        return [*alike, *even], _once([*_once(alike)[: (target + 1) // 2], *even])[:target]
    draw = {"sample": _sample, "cluster": _cluster}.get(recipe.mode)
    drawn = draw(held, recipe) if draw else _hierarchical(held, recipe, recipe.target or len(held.paths) // 4)
    return drawn, _once(drawn)[:target]


def _matrix(found: Vectors, uri: str, scratch: Scratch) -> tuple[list[str], StoredRows]:
    """Paths and embeddings in order of the paths' hashes: clustering is fitted to the first rows, a random sample."""
    paths = [path for part in found.parts() for path in good_rows(part)["path"].to_pylist()]
    if not paths:
        raise UserError("no image there decodes", where=uri, todo="see what `dinov2 screen` says of them")
    order = sorted(range(len(paths)), key=lambda i: hashlib.sha256(paths[i].encode()).digest())
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    held = scratch.empty((len(order), found.width), np.float16)
    at = 0
    for part in found.parts():
        good = good_rows(part)
        held[place[at : at + len(good)]] = vectors.stored(good)
        at += len(good)
    return [paths[i] for i in order], StoredRows(held)


def _sample(held: _Pool, recipe: Recipe) -> list[dict[str, Any]]:
    draws = sample_based(held.queries, NeighbourSearch(held.matrix), recipe.k)
    order = np.lexsort((-draws.similarity, draws.rank))
    return [
        _row(held.paths[draws.pool[i]], "sample", draws.rank[i], draws.similarity[i], held.seeds[draws.query[i]])
        for i in order.tolist()
    ]


def _cluster(held: _Pool, recipe: Recipe) -> list[dict[str, Any]]:
    centroids = kmeans(held.matrix, _clusters(held, recipe), seed=recipe.seed)
    hit, _ = assign(held.queries, centroids)
    members, similarity = assign(held.matrix, centroids)
    draws = cluster_based(
        hit, members, similarity, min_hits=recipe.min_hits, per_cluster=recipe.per_cluster, seed=recipe.seed
    )
    return [
        _row(held.paths[draws.pool[i]], "cluster", i, draws.similarity[i], cluster=draws.cluster[i])
        for i in range(len(draws.pool))
    ]


def _hierarchical(held: _Pool, recipe: Recipe, target: int) -> list[dict[str, Any]]:
    finest = _clusters(held, recipe)
    counts = [finest, *([max(2, finest // 10)] if finest >= 20 else [])]
    levels = hierarchical_kmeans(held.matrix, counts, seed=recipe.seed)
    chosen = balanced_sample([level.members for level in levels], min(target, len(held.paths)), seed=recipe.seed)
    members = levels[0].members
    similarity = (held.matrix[chosen] * levels[0].centroids[members[chosen]]).sum(axis=1)
    return [
        _row(held.paths[c], "hierarchical", rank, similarity[rank], cluster=members[c])
        for rank, c in enumerate(chosen.tolist())
    ]


def _clusters(held: _Pool, recipe: Recipe) -> int:
    return max(1, min(recipe.clusters or min(100_000, len(held.paths) // 20), len(held.paths)))


def _row(
    path: str, source: str, rank: int, similarity: float, seed: str | None = None, cluster: int = -1
) -> dict[str, Any]:
    about = {"rank": int(rank), "similarity": float(similarity), "seed": seed, "cluster": int(cluster)}
    return {"path": path, "source": source, **about}


def _once(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        found.setdefault(row["path"], row)
    return list(found.values())
