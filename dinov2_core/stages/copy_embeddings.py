"""The stage ``copy_embeddings``: the copy-detection embedding of every image of a batch that passed the filter.

The embedding itself is in ``curation/copy_detection``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dinov2_core import stage, tables
from dinov2_core.curation import copy_detection, onnx_model, vectors
from dinov2_core.images.decode import Decoded, decode
from dinov2_core.images.shards import read_images
from dinov2_core.stage import StageRun
from dinov2_core.storage import Store


@dataclass(frozen=True)
class Params:
    """``model``: an ONNX or TorchScript file, or a part's name. ``side``: see ``copy_detection.square_side``."""

    model: str = "sscd"
    side: int = copy_detection.SIDE
    images_per_task: int = stage.efficiency(500)


def external(store: Store, partition: str, params: Params) -> dict[str, str]:
    """The checksum of the model file."""
    return {"model": onnx_model.checksum(params.model)}


def run(run: StageRun) -> dict[str, Any]:
    """Embed the kept images of the batch in tasks."""
    params: Params = run.params
    rows = kept_images(run)
    tasks = {
        f"{start // params.images_per_task:05d}": {
            "images": rows[start : start + params.images_per_task],
            "model": params.model,
            "side": params.side,
        }
        for start in range(0, len(rows), params.images_per_task)
    }
    run.map(embed, tasks, label="images", unit=lambda summary: int(summary["images"]), total=len(rows))
    if not tasks:
        run.write_table("copy_embeddings", tables.COPY_EMBEDDINGS.empty_table())
    return {"images": len(rows)}


def kept_images(run: StageRun) -> list[dict[str, Any]]:
    """Id and location of every image in reach that passed the filter, each once, in order of location."""
    columns = ["image_id", "keep", *(name for name, _ in tables.LOCATION)]
    rows = {
        row["image_id"]: row for row in run.read("filtered_set", "verdicts", columns).to_pylist() if row.pop("keep")
    }
    return sorted(rows.values(), key=lambda row: (row["shard"], row["offset"]))


def embed(task: Mapping[str, Any]) -> dict[str, Any]:
    """Embed the located images of one task; writes one part of the table ``copy_embeddings``."""
    store = Store(task["root"])
    embedder = copy_detection.CopyEmbedder(task["model"], side=task["side"])
    images = []
    for data in read_images(store, task["images"]):
        decoded = decode(data)
        # It was decoded once, by the filter, from bytes that have not changed.
        assert isinstance(decoded, Decoded)
        images.append(decoded.pixels)
    table = vectors.to_table([row["image_id"] for row in task["images"]], embedder(images))
    path = task["stem"].format(name="copy_embeddings") + ".parquet"
    return {"files": [store.write_table(path, table)], "images": len(images)}
