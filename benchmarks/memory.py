"""Peak memory and seconds of the steps over the whole pool, at growing sizes and one setting ``memory``.

The tables are made up (vectors in groups, copies among neighbours in a group); the stages are the real ones, each in a
process of its own. ``anonymous`` memory is what the process holds, ``libraries`` what it held before the stage began;
the difference is what the setting bounds. ``peak`` counts mapped files too, which the
operating system takes back when others need the room.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.watched import resident, watched
from dinov2_core import manifest, stage, tables
from dinov2_core.curation import vectors
from dinov2_core.curation.image_index import to_text
from dinov2_core.images.shards import ShardWriter
from dinov2_core.manifest import Manifest
from dinov2_core.stages import registry
from dinov2_core.storage import FileRecord, Store
from pipelines.demo.pictures import encode

PART, DIM, GROUP = 1_000_000, 64, 50
STAGES: dict[str, dict[str, Any]] = {
    "deduplicated_set": {},
    "clusters": {"clusters": 200, "iterations": 5},
    "curated_lvd": {"recipe": [{"name": "seeds", "modes": ["sample", "cluster"], "per_cluster": 100, "cap": 5000}]},
}


def identities(rows: int) -> np.ndarray:
    """Random ids: S32 [N]."""
    return np.frombuffer(np.random.default_rng(rows).bytes(32 * rows), "S32")


def group_vectors(start: int, count: int) -> np.ndarray:
    """float16 [N, DIM]: ``GROUP`` consecutive rows point the same way, more or less."""
    first, last = start // GROUP, (start + count - 1) // GROUP
    centres = np.stack(
        [np.random.default_rng(g).standard_normal(DIM, dtype=np.float32) for g in range(first, last + 1)]
    )
    noise = np.random.default_rng(start).standard_normal((count, DIM), dtype=np.float32)
    return vectors.unit(centres[np.arange(start, start + count) // GROUP - first] + 0.5 * noise).astype(np.float16)


def finish(store: Store, name: str, partition: str, files: list[FileRecord], **params: Any) -> None:
    manifest.write(store, Manifest(name, partition, "made-up", params, {}, tuple(files)))


def make(store: Store, rows: int) -> None:
    """The tables that the measured stages read."""
    ids, rng = identities(rows), np.random.default_rng(0)
    with ShardWriter(store, "raw_crawl/b0") as writer:
        name = writer.add(encode(np.zeros((8, 8, 3), np.uint8)), "png")
    place = writer.locations[name]
    found: dict[str, list[FileRecord]] = {key: [] for key in ("verdicts", "edges", "embeddings")}
    for part, start in enumerate(range(0, rows, PART)):
        count = min(PART, rows - start)
        own = to_text(ids[start : start + count])
        columns: dict[str, Any] = {
            "image_id": own,
            "keep": pa.array(np.ones(count, bool)),
            "reason": pa.array([""]).take(pa.array(np.zeros(count, np.int64))),
            "width": pa.array(rng.integers(32, 999, count).astype(np.int32)),
            "height": pa.array(np.full(count, 100, np.int32)),
            **{key: pa.array([place[key]]).take(pa.array(np.zeros(count, np.int64))) for key in place},
        }
        full = [columns.get(f.name, pa.nulls(count, f.type)) for f in tables.VERDICTS]
        path = f"filtered_set/b0/verdicts-x-{part:05d}.parquet"
        found["verdicts"].append(store.write_table(path, pa.table(full, schema=tables.VERDICTS)))
        ends = np.sort(ids[start + rng.integers(0, count - 1, count // 2)[:, None] + np.array([0, 1])], axis=1)
        scores = pa.array(rng.random(count // 2, dtype=np.float32))
        edges = [to_text(np.ascontiguousarray(ends[:, i])) for i in (0, 1)]
        table = pa.table([*edges, scores, pa.nulls(count // 2, pa.float32())], schema=tables.EDGES)
        found["edges"].append(store.write_table(f"copy_edges/b0/edges-x-{part:05d}.parquet", table))
        flat = pa.array(group_vectors(start, count).reshape(-1))
        table = pa.table(
            [own, pa.FixedSizeListArray.from_arrays(flat, DIM)], schema=tables.schema("embeddings", dim=DIM)
        )
        found["embeddings"].append(store.write_table(f"embeddings/b0/embeddings-x-{part:05d}.parquet", table))
    finish(store, "filtered_set", "b0", found["verdicts"])
    finish(store, "copy_edges", "b0", found["edges"], k=64, threshold=0.6)
    finish(store, "embeddings", "b0", found["embeddings"])
    finish(store, "copy_embeddings", "b0", [])
    empty = store.write_table("benchmark_edges/b0/benchmark_edges-x-0.parquet", tables.BENCHMARK_EDGES.empty_table())
    finish(store, "benchmark_edges", "b0", [empty], k=64, threshold=0.45)
    empty = store.write_table("benchmark_sets/all/copy_embeddings-x-0.parquet", tables.COPY_EMBEDDINGS.empty_table())
    finish(store, "benchmark_sets", manifest.WHOLE, [empty])
    seeds = to_text(identities(999)).to_pylist()
    labelled = [{"image_id": i, "dataset": "seeds", "split": "train", "key": i, **place} for i in seeds]
    record = store.write_table("seed_sets/all/labelled-x-0.parquet", tables.from_rows(labelled, tables.LABELLED))
    finish(store, "seed_sets", manifest.WHOLE, [record])
    table = vectors.to_table(seeds, group_vectors(0, len(seeds)))
    finish(
        store,
        "seed_embeddings",
        manifest.WHOLE,
        [store.write_table("seed_embeddings/all/embeddings-x-0.parquet", table)],
    )


def warm() -> None:
    """Make the libraries allocate what they do once: code, threads, and the buffers of a first small product."""
    import faiss
    import torch

    some = np.random.default_rng(0).standard_normal((64, DIM), dtype=np.float32)
    torch.from_numpy(some).bfloat16() @ torch.from_numpy(some).bfloat16().T
    faiss.Kmeans(DIM, 2, niter=1, seed=0).train(some)


def measure(root: str, name: str, memory: int) -> None:
    """Run in a process of its own: materialise one stage and print what it took."""
    warm()
    stage.load(registry.get(name).run)
    params = {**STAGES[name], "memory": memory}
    made, taken = watched(lambda: stage.materialise(Store(root), registry.get(name), params=params))
    record = Path(root) / manifest.path_of(name)
    size = record.stat().st_size / 1024
    memory_used = {"before": taken.before, "anonymous": taken.highest, "peak": resident("VmHWM")}
    found = {name: size / 2**20 for name, size in memory_used.items()} | {"seconds": taken.seconds, "cpu": taken.cpu}
    print(json.dumps({**found, "manifest": size, "images": made.manifest.counts["images"]}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[10**5, 10**6, 10**7])
    parser.add_argument("--memory", type=int, default=512, help="the setting, in MiB")
    parser.add_argument("--measure", nargs=2, metavar=("ROOT", "STAGE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(*options.measure, memory=options.memory << 20)
        return
    print(f"memory: {options.memory} MiB, vectors of {DIM}\n")
    print("| rows | stage | seconds | processor s | anonymous, MiB | of it libraries | peak, MiB | manifest, KiB |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for rows in options.rows:
        with tempfile.TemporaryDirectory() as root:
            make(Store(root), rows)
            for name in STAGES:
                command = [sys.executable, __file__, "--memory", str(options.memory), "--measure", root, name]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
                found = json.loads(done.stdout.splitlines()[-1])
                print(
                    f"| {rows:,} | {name} | {found['seconds']:.1f} | {found['cpu']:.1f} | {found['anonymous']:.0f} "
                    f"| {found['before']:.0f} | {found['peak']:.0f} | {found['manifest']:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
