"""A small pool of drawn pictures, and the learner's stages from seeds to an exported model on it."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from dinov2_core import manifest, tables
from dinov2_core.images.shards import ShardWriter
from dinov2_core.manifest import Manifest
from dinov2_core.shard_map import InlineShardMap
from dinov2_core.stage import materialise
from dinov2_core.stages import registry
from dinov2_core.storage import Store

TINY = {
    "model.dim": 32,
    "model.depth": 2,
    "model.heads": 2,
    "dino_head.prototypes": 32,
    "dino_head.hidden": 32,
    "dino_head.bottleneck": 16,
    "steps": 6,
    "batch": 8,
    "optim.warmup": 2,
}
TRAINING = {"overrides": TINY, "log_every": 2, "checkpoint_every": 2}
DISTILLING = {"overrides": {"model.dim": 16, "model.heads": 1, "steps": 4}, "log_every": 2, "checkpoint_every": 2}
EVALUATION = {"train": 40, "test": 30, "bootstrap": 200, "linear_c": [0.01]}


def picture(rng: np.random.Generator, label: int) -> bytes:
    """Stripes whose direction is the class."""
    wave = np.sin(np.arange(32) / 2 + rng.uniform(0, 6))
    stripes = np.broadcast_to(wave[None] if label else wave[:, None], (32, 32))
    pixels = 128 + 60 * stripes[..., None] + rng.normal(0, 20, (32, 32, 3))
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def enlarged(data: bytes) -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(data)).resize((80, 60)).save(buffer, "PNG")
    return buffer.getvalue()


def put(store: Store, stage: str, partition: str = "all", **made: list[dict[str, Any]]) -> None:
    """Write tables as if ``stage`` had; a row's ``data`` goes into a shard and becomes its location."""
    files = []
    folder = f"{stage}/{partition}"
    with ShardWriter(store, folder) as writer:
        for rows in made.values():
            for row in rows:
                if "data" in row:
                    row["image_id"] = writer.add(row.pop("data"), "png")
    files += writer.files
    for name, rows in made.items():
        full = [row | writer.locations.get(row.get("image_id", ""), {}) for row in rows]
        files.append(store.write_table(f"{folder}/{name}-00000.parquet", tables.from_rows(full, tables.SCHEMAS[name])))
    manifest.write(store, Manifest(stage, partition, "given", {}, {}, tuple(files)))


def pictures(count: int, seed: int) -> list[tuple[bytes, str]]:
    rng = np.random.default_rng(seed)
    return [(picture(rng, i % 2), ("down", "across")[i % 2]) for i in range(count)]


def upstream(store: Store) -> None:
    """Everything that the learner's stages read."""
    put(store, "filtered_set", "b1", verdicts=[{"data": d, "keep": i > 0} for i, (d, _) in enumerate(pictures(12, 0))])
    put(
        store,
        "seed_sets",
        labelled=[{"data": d, "dataset": "s", "split": "train", "label": c} for d, c in pictures(12, 1)],
    )
    put(
        store,
        "curated_lvd",
        packed=[{"data": d, "source": "s"} for d, _ in pictures(20, 2)],
        composition=[
            {"task": "cls", "dataset": "s", "queries": 12, "mode": "sample", "retrieved": 20, "final": 20},
        ],
    )
    labelled = [
        {"data": d, "dataset": "stripes", "split": split, "label": c, "key": f"{split}/{i}"}
        for split, count, seed in (("train", 60, 3), ("test", 40, 4))
        for i, (d, c) in enumerate(pictures(count, seed))
    ]
    put(store, "benchmark_sets", labelled=labelled)
    put(store, "benchmark_edges", "b1", benchmark_edges=[])
    put(store, "deduplicated_set", components=[])


def make(
    store: Store, name: str, params: dict[str, Any] | None = None, partition: str = "all", **rest: Any
) -> Manifest:
    spec = registry.get(name)
    return materialise(store, spec, partition, params, shard_map=InlineShardMap(), **rest).manifest


def road(store: Store) -> dict[str, Manifest]:
    """All of the learner's stages."""
    made = {"preliminary_encoder": make(store, "preliminary_encoder", TRAINING)}
    made["embeddings"] = make(store, "embeddings", {"images_per_task": 4}, "b1")
    made["seed_embeddings"] = make(store, "seed_embeddings")
    made["pretrained_checkpoint"] = make(store, "pretrained_checkpoint", TRAINING)
    made["distilled_checkpoints"] = make(store, "distilled_checkpoints", DISTILLING)
    made["evaluation_metrics"] = make(store, "evaluation_metrics", EVALUATION)
    made["registered_model"] = make(store, "registered_model")
    return made
