"""A small lake whose tables agree with each other: every table of every stage, some rows each, without any pixels."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from dinov2_core import manifest, tables
from dinov2_core.manifest import WHOLE, Manifest
from dinov2_core.storage import Store

BATCHES = ("2026-01", "2026-02")
DIM = 8
Rows = list[dict[str, Any]]
Change = Callable[[Rows], Rows]


def image(name: object) -> str:
    """An image id."""
    return hashlib.sha256(str(name).encode()).hexdigest()


def place(number: int) -> dict[str, Any]:
    return {"shard": "s.tar", "offset": 512 * number, "length": 100 + number}


def unit(number: int, dim: int = DIM) -> list[np.float16]:
    vector = np.random.default_rng(number).normal(size=dim)
    return list((vector / np.linalg.norm(vector)).astype(np.float16))


def write(
    store: Store,
    stage: str,
    contents: Mapping[str, pa.Table | list[pa.Table]],
    partition: str = WHOLE,
    *,
    params: Mapping[str, Any] | None = None,
    upstream: tuple[str, ...] = (),
    files: Mapping[str, bytes] | None = None,
) -> Manifest:
    """One partition of a stage: tables by name, in parts where a list is given; ``upstream``: ``stage/partition``."""
    records = []
    for name, parts in contents.items():
        for number, table in enumerate(parts if isinstance(parts, list) else [parts]):
            records.append(store.write_table(f"{stage}/{partition}/{name}-f-{number:05d}.parquet", table))
    records += [store.write_bytes(f"{stage}/{partition}/{name}", data) for name, data in (files or {}).items()]
    hashes = {}
    for key in upstream:
        made = manifest.read(store, *key.split("/", 1))
        assert made is not None, key
        hashes[key] = made.hash
    made = Manifest(stage, partition, "f", params or {}, hashes, tuple(records))
    manifest.write(store, made)
    return made


def lake(store: Store) -> Store:
    """The whole lake."""
    for number, batch in enumerate(BATCHES):
        for stage, contents, upstream in _batch(number):
            made = {name: _table(name, rows) for name, rows in contents.items()}
            keys = tuple(
                f"{one}/{p}" for one, ps in upstream.items() for p in (BATCHES[: number + 1] if ps else (batch,))
            )
            keys += ("benchmark_sets/all",) if stage == "benchmark_edges" else ()
            if stage == "benchmark_edges" and not number:
                _whole(store, ("benchmark_sets", "seed_sets"))
            write(store, stage, made, batch, upstream=keys)
    _whole(store, ("deduplicated_set", "seed_embeddings", "clusters", "curated_lvd", *HISTORIES, "evaluation_metrics"))
    return store


HISTORIES = ("preliminary_encoder", "pretrained_checkpoint", "distilled_checkpoints")
STORED = 8
"""Images that a batch stores; the first is dropped by the filter, the second copies the third."""


def ids(number: int) -> list[str]:
    return [image(f"{number}/{i}") for i in range(STORED)]


def _batch(number: int) -> list[tuple[str, dict[str, Rows], dict[str, bool]]]:
    """(stage, tables, upstream stage → whether earlier batches are read too)."""
    own = ids(number)
    kept = own[1:]
    shape = {"width": 32, "height": 32}
    images: Rows = [
        {
            "image_id": name,
            "url": f"http://x/{number}/{i}",
            "page": "p",
            "status": "stored",
            "reason": "",
            "format": "png",
        }
        | {"bytes": 100 + i, **shape, **place(i)}
        for i, name in enumerate(own)
    ]
    images += [
        {**images[0], "url": "http://x/again", "status": "duplicate", "reason": "same bytes"},
        {"url": "http://x/bad", "page": "p", "status": "refused", "reason": "svg"},
    ]
    verdicts: Rows = [
        {"image_id": name, "keep": i > 0, "reason": "" if i else "duplicate", "duplicate_of": None if i else own[2]}
        | {
            "mode": "RGB",
            "pixel_sha256": image(name),
            "entropy": 5.0,
            "sharpness": 9.0,
            "nsfw": 0.01,
            **shape,
            **place(i),
        }
        | {"faces": [{"x": 1, "y": 1, "w": 5, "h": 5, "score": 0.9}] if i == 3 else []}
        for i, name in enumerate(own)
    ]
    vectors: Rows = [{"image_id": name, "embedding": unit(i + 100 * number)} for i, name in enumerate(kept)]
    copies: Rows = [{"image_id": name, "embedding": unit(i + 100 * number, 512)} for i, name in enumerate(kept)]
    a, b = sorted(own[1:3])
    edges: Rows = [{"a": a, "b": b, "similarity": 0.9, "alignment": 0.9}]
    leaks: Rows = [
        {
            "image_id": own[4],
            "benchmark": "bench",
            "benchmark_id": image("bench 0"),
            "similarity": 0.8,
            "alignment": None,
        }
    ]
    return [
        ("raw_crawl", {"images": images}, {}),
        ("filtered_set", {"verdicts": verdicts}, {"raw_crawl": False}),
        ("copy_embeddings", {"copy_embeddings": copies}, {"filtered_set": False}),
        ("copy_edges", {"edges": edges}, {"filtered_set": True, "copy_embeddings": True}),
        ("benchmark_edges", {"benchmark_edges": leaks}, {"filtered_set": False, "copy_embeddings": False}),
        ("embeddings", {"embeddings": vectors}, {"filtered_set": False}),
    ]


def _components() -> Rows:
    rows: Rows = []
    for number in range(len(BATCHES)):
        own = ids(number)
        for i, name in enumerate(own[1:], 1):
            of = own[2] if i == 1 else name
            reason = f"copy of {own[2]}" if i == 1 else "leak of bench" if i == 4 else ""
            rows.append(
                {"image_id": name, "component": of, "size": 2 if i < 3 else 1, "keep": not reason, "reason": reason}
                | place(i)
            )
    return sorted(rows, key=lambda row: str(row["image_id"]))


def seeds() -> list[str]:
    return [image(f"seed {i}") for i in range(4)]


def _labelled(dataset: str, prefix: str, count: int) -> Rows:
    return [
        {"image_id": image(f"{prefix} {i}"), "dataset": dataset, "split": "test", "label": "cat", "key": f"{i}.png"}
        | place(i)
        for i in range(count)
    ]


def _history() -> Rows:
    names = {
        "total": 5.0,
        "target_entropy": 3.0,
        "feature_rank": 20.0,
        "prototypes_used": 0.2,
        "grad_norm.backbone": 2.0,
    }
    return [{"step": step, "name": name, "value": value} for step in (0, 10, 19) for name, value in names.items()]


def _global() -> dict[str, tuple[dict[str, Rows], tuple[str, ...]]]:
    kept = [row["image_id"] for row in _components() if row["keep"]]
    draws: Rows = [
        {"image_id": kept[0], "dataset": "set", "mode": "sample", "seed_id": seeds()[0], "cluster": -1, "rank": 0},
        {"image_id": kept[1], "dataset": "set", "mode": "cluster", "cluster": 1, "rank": 1},
        {"image_id": seeds()[0], "dataset": "set", "mode": "as is", "cluster": -1, "rank": 0},
    ]
    every = tuple(f"{stage}/{batch}" for stage in ("filtered_set", "copy_embeddings") for batch in BATCHES)
    score = {"dataset": "bench", "protocol": "knn", "metric": "accuracy", "value": 0.5, "low": 0.4, "high": 0.6}
    return {
        "benchmark_sets": (
            {
                "labelled": _labelled("bench", "bench", 3),
                "copy_embeddings": [{"image_id": image("bench 0"), "embedding": unit(7, 512)}],
            },
            (),
        ),
        "seed_sets": ({"labelled": _labelled("set", "seed", 4)}, ()),
        "deduplicated_set": ({"components": _components()}, every),
        "seed_embeddings": (
            {"embeddings": [{"image_id": name, "embedding": unit(i)} for i, name in enumerate(seeds())]},
            ("seed_sets/all",),
        ),
        "clusters": (
            {
                "clusters": [{"image_id": n, "cluster": i % 3, "similarity": 0.5} for i, n in enumerate(kept)],
                "centroids": [{"image_id": str(i), "embedding": unit(i)} for i in range(3)],
                "tree": [
                    *({"level": 0, "cluster": i, "parent": i % 2} for i in range(3)),
                    *({"level": 1, "cluster": i, "parent": 0} for i in range(2)),
                ],
            },
            ("deduplicated_set/all",),
        ),
        "curated_lvd": (
            {
                "selections": draws,
                "packed": [{"image_id": d["image_id"], "source": "set", **place(i)} for i, d in enumerate(draws)],
                "composition": [
                    {"task": "t", "dataset": "set", "queries": 4, "mode": mode, "retrieved": 1, "final": 1}
                    for mode in ("sample", "cluster", "as is")
                ],
            },
            ("deduplicated_set/all", "seed_sets/all", "clusters/all"),
        ),
        **{stage: ({"history": _history()}, ()) for stage in HISTORIES},
        "evaluation_metrics": ({"metrics": [{**score, "model": m, "count": 9} for m in ("trained", "untrained")]}, ()),
    }


def _whole(store: Store, stages: tuple[str, ...]) -> None:
    for stage in stages:
        contents, upstream = _global()[stage]
        write(store, stage, {name: _table(name, rows) for name, rows in contents.items()}, upstream=upstream)


def copy(store: Store, folder: Path) -> Store:
    """The same lake in another folder, whose files are the same until one of the two writes its own."""
    shutil.copytree(store.root, folder, copy_function=os.link)
    return Store(str(folder))


def alter(store: Store, stage: str, table: str, change: Callable[[pa.Table], pa.Table]) -> None:
    """Replace a table in the last partition of a stage by one part of other rows; its upstream stays."""
    made = manifest.read(store, stage, manifest.partitions(store, stage)[-1])
    assert made is not None
    old = made.table(table)
    new = change(pa.concat_tables([store.read_table(record.path) for record in old]))
    record = store.write_table(f"{made.key}/{table}-g-00000.parquet", new)
    manifest.write(store, replace(made, files=(*(f for f in made.files if f not in old), record)))


def alter_rows(store: Store, stage: str, table: str, change: Change) -> None:
    """As :func:`alter`, row by row."""
    alter(store, stage, table, lambda old: tables.from_rows(change(old.to_pylist()), old.schema))


def _table(name: str, rows: Rows) -> pa.Table:
    dim = len(rows[0]["embedding"]) if rows and "embedding" in rows[0] else DIM
    return tables.from_rows(rows, tables.schema(name, dim=dim))
