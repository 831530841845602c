"""What a new batch costs against everything from scratch, on real pictures, from packed shards to the curated set.

A pool of CIFAR-10 pictures is materialised in full once as batches b0 … b9 and once with b9 added to the other nine.
The stages are the real ones with their models: filter, copy embeddings, edges, components, embeddings, clusters,
selection and packing. Printed: seconds of each stage either way, and whether the two curated sets are equal.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from typing import Any

import numpy as np
import torch

from dinov2_core import manifest, stage, tables
from dinov2_core.images.shards import ShardWriter
from dinov2_core.manifest import Manifest
from dinov2_core.stages import registry
from dinov2_core.storage import Store
from pipelines.demo.pictures import Cifar, cifar, encode

BATCHES = 10
PARAMS: dict[str, dict[str, Any]] = {
    "filtered_set": {"nsfw_model": "", "face_model": ""},
    "copy_embeddings": {"model": "sscd_distilled", "side": 128},
    "copy_edges": {"threshold": 0.75, "align": False},
    "benchmark_edges": {"align": False},
    "deduplicated_set": {"threshold": 0.75, "benchmark_threshold": 0.75},
    "preliminary_encoder": {"overrides": {"steps": 10, "optim.warmup": 2}},
    "clusters": {"clusters": 200},
    "curated_lvd": {"recipe": [{"name": "seeds", "modes": ["as is", "sample", "cluster"], "per_cluster": 50}]},
}
PER_BATCH = ("filtered_set", "copy_embeddings", "copy_edges", "benchmark_edges", "embeddings")
BEFORE = ("preliminary_encoder", "seed_embeddings")
AFTER = ("deduplicated_set", "clusters", "curated_lvd")


def pack(store: Store, folder: str, pixels: np.ndarray) -> tuple[ShardWriter, list[str]]:
    with ShardWriter(store, folder) as writer:
        return writer, [writer.add(encode(picture), "png") for picture in pixels]


def crawled(store: Store, partition: str, pixels: np.ndarray) -> None:
    writer, ids = pack(store, f"raw_crawl/{partition}", pixels)
    rows = [
        {"image_id": i, "url": i, "page": "", "status": "stored", "reason": "", "format": "PNG", **writer.locations[i]}
        for i in ids
    ]
    record = store.write_table(f"raw_crawl/{partition}/images-x-0.parquet", tables.from_rows(rows, tables.IMAGES))
    manifest.write(store, Manifest("raw_crawl", partition, "made-up", {}, {}, (record, *writer.files)))


def labelled(store: Store, name: str, pixels: np.ndarray, dataset: str, split: str) -> None:
    """A set of pictures as ``seed_sets`` and ``benchmark_sets`` leave them."""
    writer, ids = pack(store, f"{name}/all", pixels)
    rows = [{"image_id": i, "dataset": dataset, "split": split, "key": i, **writer.locations[i]} for i in ids]
    files = [store.write_table(f"{name}/all/labelled-x-0.parquet", tables.from_rows(rows, tables.LABELLED))]
    if name == "benchmark_sets":
        from dinov2_core.curation import vectors
        from dinov2_core.curation.copy_detection import CopyEmbedder

        matrix = CopyEmbedder("sscd_distilled", side=128)(list(pixels))
        files.append(store.write_table(f"{name}/all/copy_embeddings-x-0.parquet", vectors.to_table(ids, matrix)))
    params = PARAMS["copy_embeddings"]
    manifest.write(store, Manifest(name, manifest.WHOLE, "made-up", params, {}, (*writer.files, *files)))


def prepared(root: str, data: Cifar) -> Store:
    """A store with seeds, an evaluation set, and the encoder that the pool is embedded with."""
    store = Store(root)
    labelled(store, "seed_sets", data.train[-500:], "seeds", "train")
    labelled(store, "benchmark_sets", data.test[:200], "cifar10", "test")
    for name in BEFORE:
        stage.materialise(store, registry.get(name), params=PARAMS.get(name))
    return store


def bring(store: Store, partitions: list[str], seconds: dict[str, float]) -> None:
    """Bring the partitions and all that hangs on them up to date, adding up each stage's seconds."""
    for name in (*PER_BATCH, *AFTER):
        for partition in partitions if name in PER_BATCH else [manifest.WHOLE]:
            started = time.perf_counter()
            stage.materialise(store, registry.get(name), partition, PARAMS.get(name))
            seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - started


def result(store: Store) -> list[str]:
    made = manifest.read(store, "curated_lvd")
    assert made is not None
    return [i for f in made.table("packed") for i in store.read_table(f.path, ["image_id"]).column(0).to_pylist()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=20_000, help="of the whole pool, a tenth of them new")
    options = parser.parse_args()
    data, size = cifar(), options.images // BATCHES
    names = [f"b{i}" for i in range(BATCHES)]
    full: dict[str, float] = {}
    new: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        scratch, grown = prepared(one, data), prepared(two, data)
        for index, name in enumerate(names):
            pixels = data.train[index * size : (index + 1) * size]
            crawled(scratch, name, pixels)
            if name != names[-1]:
                crawled(grown, name, pixels)
        bring(grown, names[:-1], {})
        crawled(grown, names[-1], data.train[(BATCHES - 1) * size : BATCHES * size])
        bring(grown, names[-1:], new)
        bring(scratch, names, full)
        equal = result(scratch) == result(grown)
    print(f"{options.images} images, a tenth of them new, {torch.get_num_threads()} threads\n")
    print("| stage | from scratch, s | the new batch, s | share |\n|---|---|---|---|")
    for name in full:
        print(f"| {name} | {full[name]:.1f} | {new[name]:.1f} | {100 * new[name] / full[name]:.0f} % |")
    whole, part = sum(full.values()), sum(new.values())
    print(f"| all | {whole:.1f} | {part:.1f} | {100 * part / whole:.1f} % |")
    print(f"\nthe curated sets are {'equal' if equal else 'NOT EQUAL'}")


if __name__ == "__main__":
    main()
