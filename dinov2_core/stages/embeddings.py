"""The stage ``embeddings``: the retrieval embedding of every image of a batch that passed the filter.

``seed_embeddings`` is the same for the seeds; what both share is here.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import torch

from dinov2_core import adopted_encoder, stage, tables
from dinov2_core.errors import UserError
from dinov2_core.evaluate.features import extract
from dinov2_core.images.pool import load_pool
from dinov2_core.model import weights
from dinov2_core.model.preprocessing import Preprocessing
from dinov2_core.model.vision_transformer import VisionTransformer
from dinov2_core.shard_map import Resources
from dinov2_core.stage import StageRun
from dinov2_core.stages import training
from dinov2_core.stages.copy_embeddings import kept_images
from dinov2_core.storage import Store

PRELIMINARY = "preliminary"
CHAMPION = "champion"


@dataclass(frozen=True)
class Params:
    """``encoder``: ``preliminary`` (the stage ``preliminary_encoder``); ``champion`` (the adopted encoder, and the
    preliminary one until one is adopted); or the path of a backbone's safetensors. ``device``: with ``cuda`` a task
    asks the engine for ``gpus`` GPUs; vectors differ from a CPU's in the last bits, so they are another version."""

    encoder: str = PRELIMINARY
    device: Literal["cpu", "cuda"] = stage.efficiency("cpu")
    gpus: float = stage.efficiency(1.0)
    images_per_task: int = stage.efficiency(500)
    batch: int = stage.efficiency(128)


def external(store: Store, partition: str, params: Params) -> dict[str, str]:
    """The checksum of the weights, where they are not those of an upstream stage; and the device, where not the CPU."""
    return _weights(store, params) | ({} if params.device == "cpu" else {"device": params.device})


def _weights(store: Store, params: Params) -> dict[str, str]:
    if params.encoder == PRELIMINARY:
        return {}
    if params.encoder == CHAMPION:
        found = adopted_encoder.read(store)
        return {} if found is None else {"encoder": found.sha256}
    path = Path(params.encoder)
    if not path.is_file():
        raise UserError("no such weights file", where=params.encoder, todo="check the setting 'encoder'")
    return {"encoder": hashlib.sha256(path.read_bytes()).hexdigest()}


def run(run: StageRun) -> dict[str, Any]:
    """Embed the kept images of the batch in tasks."""
    return embed(run, kept_images(run))


def embed(run: StageRun, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Embed the images at ``rows`` (id and location) and write the table ``embeddings``."""
    params: Params = run.params
    adopted = adopted_encoder.read(run.store) if params.encoder == CHAMPION else None
    stored = params.encoder in (PRELIMINARY, CHAMPION)
    if adopted is not None:
        path = adopted.path
    elif stored:
        path = training.output_path(run, "preliminary_encoder", "encoder", "safetensors")
    else:
        path = params.encoder
    size = params.images_per_task
    tasks = {
        f"{start // size:05d}": {
            "images": [dict(row) for row in rows[start : start + size]],
            "encoder": path,
            "stored": stored,
            "version": run.fingerprint,
            "batch": params.batch,
            "device": params.device,
        }
        for start in range(0, len(rows), size)
    }
    needs = Resources(gpus=params.gpus if params.device == "cuda" else 0.0)
    summaries = run.map(
        _embed, tasks, label="images", unit=lambda s: int(s["images"]), total=len(rows), resources=needs
    )
    backbone, _ = _encoder(run.store.root, path, stored, run.fingerprint)
    if not tasks:
        run.write_table("embeddings", tables.schema("embeddings", dim=backbone.config.dim).empty_table())
    return {
        "images": sum(s["images"] for s in summaries),
        "undecodable": sum(s["undecodable"] for s in summaries),
        "dim": backbone.config.dim,
    }


@functools.lru_cache(maxsize=2)
def _encoder(root: str, path: str, stored: bool, version: str) -> tuple[VisionTransformer, Preprocessing]:
    # Once a process; ``version`` covers the checksum of the weights.
    return training.read_backbone(Store(root), path) if stored else weights.load(path)


def _embed(task: Mapping[str, Any]) -> dict[str, Any]:
    store = Store(task["root"])
    backbone, preprocessing = _encoder(task["root"], task["encoder"], task["stored"], task["version"])
    if task["device"] == "cuda" and not torch.cuda.is_available():
        raise UserError("there is no GPU here", where=f"device: {task['device']}", todo="set device: cpu")
    backbone.to(task["device"])  # once; it stays there
    pool = load_pool(store, task["images"], preprocessing.size, label=f"task {task['key']}")
    threads = torch.get_num_threads()
    # Bits must not depend on which process embeds an image.
    torch.set_num_threads(1)
    try:
        features = extract(backbone, torch.from_numpy(pool.pixels), preprocessing, batch=task["batch"])
    finally:
        torch.set_num_threads(threads)
    values = training.normalised_float16(features)
    ids = [task["images"][int(index)]["image_id"] for index in pool.kept]
    schema = tables.schema("embeddings", dim=backbone.config.dim)
    column = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel(), pa.float16()), backbone.config.dim)
    table = pa.Table.from_arrays([pa.array(ids, pa.string()), column], schema=schema)
    record = store.write_table(task["stem"].format(name="embeddings") + ".parquet", table)
    return {"files": [record], "images": len(ids), "undecodable": len(pool.refused)}
