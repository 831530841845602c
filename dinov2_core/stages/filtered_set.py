"""The stage ``filtered_set``: a verdict for every stored image of a batch, and new bytes where faces were blurred.

Nothing is deleted: a dropped image keeps its row, its scores and its reason. How each score is computed is in
``curation``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from dinov2_core import stage, tables
from dinov2_core.config import build
from dinov2_core.curation import onnx_model
from dinov2_core.curation.screening import Screen, ScreenRules, mark_duplicates
from dinov2_core.images.sets import signature
from dinov2_core.images.shards import ShardWriter, read_images
from dinov2_core.stage import StageRun
from dinov2_core.storage import Store


@dataclass(frozen=True)
class Params(ScreenRules):
    """The rules of ``curation/screening``."""

    images_per_task: int = stage.efficiency(250)


def external(store: Store, partition: str, params: Params) -> dict[str, str]:
    """Checksums of the model files and hash lists."""
    lists = {name: signature(name) for name in params.hash_lists}
    return lists | {name: onnx_model.checksum(name) for name in (params.nsfw_model, params.face_model) if name}


def run(run: StageRun) -> dict[str, Any]:
    """Screen the batch's images in tasks, then mark duplicates among those that passed."""
    params: Params = run.params
    columns = ["image_id", "status", *(name for name, _ in tables.LOCATION)]
    images = run.read("raw_crawl", "images", columns).to_pylist()
    stored = {row["image_id"]: row for row in images if row["status"] == "stored"}
    # Rows of a shard together, in its order: one open file a shard, read forwards.
    rows = sorted(stored.values(), key=lambda row: (row["shard"], row["offset"]))
    for row in rows:
        del row["status"]
    size = params.images_per_task
    tasks: dict[str, dict[str, Any]] = {
        f"{start // size:05d}": {"images": rows[start : start + size], "params": asdict(params), "folder": run.folder}
        for start in range(0, len(rows), size)
    }
    for key, task in tasks.items():
        task["screened"] = run.scratch(f"screened-{key}.parquet")
    run.map(_screen, tasks, label="images", unit=lambda summary: int(summary["images"]), total=len(rows))
    parts = [run.store.read_table(task["screened"]).to_pylist() for task in tasks.values()]
    verdicts = [row for part in parts for row in part]
    mark_duplicates(verdicts, params.hash_distance, length="length", name="image_id")
    start = 0
    for index, part in enumerate(parts or [[]]):
        run.write_table("verdicts", _table(verdicts[start : start + len(part)]), index)
        start += len(part)
    return _counts(verdicts)


def _screen(task: Mapping[str, Any]) -> dict[str, Any]:
    """Decode, score and blur one task's images; the rows go to the scratch table that the task names."""
    store, params = Store(task["root"]), build(Params, task["params"])
    screen = Screen(params)
    rows = []
    with ShardWriter(store, task["folder"]) as writer:
        for row, data in zip(task["images"], read_images(store, task["images"]), strict=True):
            verdict, blurred = screen.verdict(data)
            rows.append(row | verdict)
            if blurred is not None:
                writer.add(blurred.data, blurred.extension, identity=row["image_id"])
    for row in rows:
        if row["image_id"] in writer.locations:
            row.update(writer.locations[row["image_id"]])
    store.write_table(task["screened"], _table(rows))
    return {"files": writer.files, "images": len(rows)}


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    return tables.from_rows(rows, tables.VERDICTS)


def _counts(rows: list[dict[str, Any]]) -> dict[str, Any]:
    reasons: dict[str, int] = {}
    for row in rows:
        if not row["keep"]:
            reasons[row["reason"]] = reasons.get(row["reason"], 0) + 1
    faces = [len(row.get("faces") or []) for row in rows if row["keep"]]
    return {
        "images": len(rows),
        "kept": sum(row["keep"] for row in rows),
        "dropped": dict(sorted(reasons.items())),
        "faces_blurred": sum(faces),
        "images_with_faces": sum(count > 0 for count in faces),
    }
