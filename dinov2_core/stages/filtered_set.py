"""The stage ``filtered_set``: a verdict for every stored image of a batch, and new bytes where faces were blurred.

Nothing is deleted: a dropped image keeps its row, its scores and its reason. How each score is computed is in
``curation``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from dinov2_core import stage, tables
from dinov2_core.config import build
from dinov2_core.curation import blur, onnx_model, quality
from dinov2_core.curation.faces import FaceDetector
from dinov2_core.curation.keep_rule import keep_order
from dinov2_core.curation.nsfw import NsfwClassifier
from dinov2_core.curation.pca_hash import hamming_pairs, pca_hash
from dinov2_core.curation.quality import QualityRules
from dinov2_core.images.decode import MAX_PIXELS, Refused, decode
from dinov2_core.images.shards import ShardWriter, read_images
from dinov2_core.stage import StageRun
from dinov2_core.storage import Store


@dataclass(frozen=True)
class Params:
    """``nsfw_model`` and ``face_model`` are files or part names; empty turns that check off.

    ``hash_distance``: bits (of 64) within which two images are near-exact duplicates; -1 turns that off.
    """

    quality: QualityRules = field(default_factory=QualityRules)
    max_pixels: int = MAX_PIXELS
    hash_distance: int = 3
    nsfw_model: str = "nsfw"
    nsfw_threshold: float = 0.9
    nsfw_tile: int = 256
    face_model: str = "centerface"
    face_threshold: float = 0.5
    face_max_side: int = 1280
    images_per_task: int = stage.efficiency(250)


def external(store: Store, partition: str, params: Params) -> dict[str, str]:
    """Checksums of the model files."""
    return {name: onnx_model.checksum(name) for name in (params.nsfw_model, params.face_model) if name}


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
    _mark_duplicates(verdicts, params.hash_distance)
    start = 0
    for index, part in enumerate(parts or [[]]):
        run.write_table("verdicts", _table(verdicts[start : start + len(part)]), index)
        start += len(part)
    return _counts(verdicts)


def _screen(task: Mapping[str, Any]) -> dict[str, Any]:
    """Decode, score and blur one task's images; the rows go to the scratch table that the task names."""
    store, params = Store(task["root"]), build(Params, task["params"])
    screen = _Screen(params)
    rows = []
    with ShardWriter(store, task["folder"]) as writer:
        for row, data in zip(task["images"], read_images(store, task["images"]), strict=True):
            rows.append(screen.verdict(dict(row), data, writer))
    for row in rows:
        if row["image_id"] in writer.locations:
            row.update(writer.locations[row["image_id"]])
    store.write_table(task["screened"], _table(rows))
    return {"files": writer.files, "images": len(rows)}


class _Screen:
    """The checks of one worker process, in the order in which they are paid for: cheap ones first."""

    def __init__(self, params: Params) -> None:
        self.params = params
        self.nsfw = NsfwClassifier(params.nsfw_model, tile=params.nsfw_tile) if params.nsfw_model else None
        self.faces = (
            FaceDetector(params.face_model, threshold=params.face_threshold, max_side=params.face_max_side)
            if params.face_model
            else None
        )

    def verdict(self, row: dict[str, Any], data: bytes, writer: ShardWriter) -> dict[str, Any]:
        """``row`` (id and location) with the verdict and every score computed on the way to it."""
        rules = self.params.quality
        decoded = decode(data, max_pixels=self.params.max_pixels)
        row["keep"] = False
        if isinstance(decoded, Refused):
            row["reason"] = decoded.reason
            return row
        pixels = decoded.pixels
        height, width = pixels.shape[:2]
        luma = quality.grey(pixels)
        row.update(width=width, height=height, mode=decoded.mode, pixel_sha256=_pixel_hash(pixels))
        row.update(entropy=quality.entropy(luma), sharpness=quality.sharpness(luma), pca_hash=pca_hash(luma))
        row["reason"] = quality.size_reason(width, height, rules) or quality.detail_reason(
            row["entropy"], row["sharpness"], rules
        )
        if row["reason"]:
            return row
        if self.nsfw is not None:
            row["nsfw"] = self.nsfw.score(pixels)
            if row["nsfw"] >= self.params.nsfw_threshold:
                row["reason"] = "unsafe"
                return row
        row["keep"] = True
        found = self.faces.find(pixels) if self.faces is not None else []
        row["faces"] = [asdict(face) for face in found]
        if found:
            new, extension = blur.encode(blur.blur_faces(pixels, found), decoded.format)
            writer.add(new, extension, identity=row["image_id"])
        return row


def _pixel_hash(pixels: np.ndarray) -> str:
    digest = hashlib.sha256(f"{pixels.shape[0]}x{pixels.shape[1]}:".encode())
    digest.update(pixels.tobytes())
    return digest.hexdigest()


def _mark_duplicates(rows: list[dict[str, Any]], distance: int) -> None:
    """Drop every kept row that is within ``distance`` bits of a better one that stays."""
    kept = [row for row in rows if row["keep"]]
    if distance < 0 or not kept:
        return
    pairs = hamming_pairs(np.frombuffer(b"".join(r["pca_hash"] for r in kept), np.uint8).reshape(-1, 8), distance)
    near: dict[int, list[int]] = {}
    for i, j in pairs.tolist():
        near.setdefault(i, []).append(j)
        near.setdefault(j, []).append(i)
    order = keep_order(
        np.array([row["width"] * row["height"] for row in kept]),
        np.array([row["length"] for row in kept]),
        np.array([row["image_id"] for row in kept]),
    )
    # Best first: whoever is still there when its turn comes stays, and its neighbours go. No chains.
    for index in order.tolist():
        if kept[index]["keep"]:
            for other in near.get(index, ()):
                if kept[other]["keep"]:
                    kept[other].update(keep=False, reason="duplicate", duplicate_of=kept[index]["image_id"])


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
