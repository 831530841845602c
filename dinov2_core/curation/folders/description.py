"""One pass over the images of a folder: what comparing them needs, each image decoded once.

Per image a row (path, why it was refused, hashes, size), an embedding and a small grey picture for alignment.
Comparing is in ``copies``.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from dinov2_core.curation import onnx_model, planting, vectors
from dinov2_core.curation.copy_detection import CopyEmbedder
from dinov2_core.curation.folders import reading
from dinov2_core.curation.folders.job import Job, tasks_of
from dinov2_core.curation.quality import grey
from dinov2_core.curation.scratch import Scratch
from dinov2_core.curation.vectors import StoredRows
from dinov2_core.errors import DamagedDataError
from dinov2_core.images.decode import Refused, decode
from dinov2_core.images.sets import printable
from dinov2_core.storage import Store

GREY_SIDE = 96
"""Of the pictures kept for alignment, which looks at 48 pixels."""
_BATCH_PIXELS = 32_000_000
ROW = pa.schema(
    [
        ("path", pa.string()),
        ("reason", pa.string()),  # empty where it decodes
        ("sha256", pa.string()),
        ("pixel_sha256", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("bytes", pa.int64()),
    ]
)


@dataclass(frozen=True)
class Model:
    """The copy-detection network: ``weights`` (file or part), the ``side`` at most, ``flips``: mirrored images too."""

    weights: str = "sscd"
    side: int = 288
    flips: bool = False

    def state(self) -> dict[str, Any]:
        return {"weights": onnx_model.checksum(self.weights), "side": self.side, "flips": self.flips}


@dataclass(frozen=True)
class Described:
    """``rows``: :data:`ROW`, refused ones included. For the N that decode, in order of path: ``table``; ``matrix`` and
    ``mirrored`` [N, D] of unit length (``mirrored`` empty without flips); ``greys`` uint8 [N, 96, 96].

    What grows with the pool lies in memory or in files, as the :class:`Scratch` it was made with decides."""

    rows: pa.Table
    table: pa.Table
    matrix: StoredRows
    mirrored: StoredRows
    greys: np.ndarray
    uri: str
    groups: list[list[str]]
    digest: str


def pixel_hash(pixels: np.ndarray) -> str:
    """sha256 (hex) of size and decoded pixels: equal for two files that hold the same picture losslessly."""
    digest = hashlib.sha256(f"{pixels.shape[0]}x{pixels.shape[1]}:".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def describe(
    job: Job, uri: str, model: Model, scratch: Scratch, *, label: str = "images", per_task: int = 250
) -> Described:
    """Describe every image at ``uri``; what was described before is not done again."""
    groups, digest = reading.groups(uri, per_task)
    tasks = tasks_of(groups, uri=uri, weights=model.weights, side=model.side, flips=model.flips)
    total = None if groups[0][0].endswith(reading.CONTAINERS) else sum(len(g) for g in groups)
    state = {"images": digest, "model": model.state(), "groups": len(groups)}
    done = job.map(_describe, tasks, state, label=label, total=total)
    rows = pa.concat_tables([job.rows(prefix, ROW.names) for prefix, _ in done])
    good = rows.filter(pa.compute.equal(rows["reason"], ""))
    order = np.argsort(np.array(good["path"].to_pylist(), dtype=object), kind="stable")
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    held: dict[str, np.ndarray] = {}
    at = 0
    for prefix, _ in done:
        arrays = _load(job, prefix, ("matrix", "mirrored", "greys"))
        own = place[at : at + len(arrays["matrix"])]
        at += len(own)
        for name, part in arrays.items():
            if name not in held:
                count = 0 if name == "mirrored" and not model.flips else len(order)
                held[name] = scratch.empty((count, *part.shape[1:]), part.dtype)
            held[name][own if len(part) else own[:0]] = part
    matrix, mirrored = StoredRows(held["matrix"]), StoredRows(held["mirrored"])
    return Described(rows, good.take(order), matrix, mirrored, held["greys"], uri, groups, digest)


def plant(job: Job, described: Described, model: Model, chosen: np.ndarray) -> tuple[np.ndarray, ...]:
    """Two copies of each image at ``chosen`` (int [S]), of different kinds.

    Returns:
        ``(origin int [2S], kinds text [2S], embeddings float32 [2S, D], greys uint8 [2S, 96, 96])``.
    """
    paths = described.table["path"].to_pylist()
    seeds = {paths[i]: n for n, i in enumerate(chosen.tolist())}
    wanted = set(seeds)
    tasks = []
    for names in described.groups:
        if names[0].endswith(reading.CONTAINERS):
            some = {p: seeds[p] for p in wanted if any(p.startswith(f"{printable(n)}/") for n in names)}
            kept = names
        else:
            kept = [n for n in names if printable(n) in wanted]
            some = {printable(n): seeds[printable(n)] for n in kept}
        if some:
            about = {"uri": described.uri, "weights": model.weights, "side": model.side}
            tasks.append({"names": kept, "seeds": some, **about})
    state = {"images": described.digest, "model": model.state(), "chosen": sorted(wanted)}
    done = job.map(_plant, tasks, state, label="planted copies", total=2 * len(chosen))
    held = ("seed", "kind", "matrix", "greys")
    arrays = [_load(job, prefix, held) for prefix, _ in done]
    seed, kind, matrix, greys = (np.concatenate([a[n] for a in arrays]) for n in held)
    order = np.lexsort((np.arange(len(seed)), seed))
    kinds = np.array(list(planting.EDITS))
    return chosen[seed[order]], kinds[kind[order]], vectors.unit(matrix[order].astype(np.float32)), greys[order]


def _describe(task: Mapping[str, Any]) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    batch = _Batch(CopyEmbedder(task["weights"], side=task["side"]), task["flips"])
    for item in reading.read(task["uri"], task["names"]):
        row: dict[str, Any] = {"path": item.path, "reason": item.reason, "bytes": len(item.data)}
        decoded = decode(item.data) if not item.reason else Refused(item.reason)
        if isinstance(decoded, Refused):
            row["reason"] = decoded.reason
        else:
            height, width = decoded.pixels.shape[:2]
            row |= {"sha256": hashlib.sha256(item.data).hexdigest(), "pixel_sha256": pixel_hash(decoded.pixels)}
            row |= {"width": width, "height": height}
            batch.add(decoded.pixels)
        rows.append(row)
    store = Store(task["root"])
    store.write_table(f"{task['scratch']}rows.parquet", pa.Table.from_pylist(rows, schema=ROW))
    _save(store, task["scratch"], **batch.arrays())
    return {"images": len(rows)}


def _plant(task: Mapping[str, Any]) -> dict[str, Any]:
    batch = _Batch(CopyEmbedder(task["weights"], side=task["side"]), flips=False)
    seeds, kinds = [], []
    names = list(planting.EDITS)
    for item in reading.read(task["uri"], task["names"]):
        if item.path not in task["seeds"]:
            continue
        decoded = decode(item.data)
        if isinstance(decoded, Refused):
            continue
        number = task["seeds"][item.path]
        for turn in (0, 1):
            kind = planting.kind_of(number, turn)
            batch.add(planting.plant(decoded.pixels, kind, 2 * number + turn))
            seeds.append(number)
            kinds.append(names.index(kind))
    arrays = {"seed": np.array(seeds, np.int64), "kind": np.array(kinds, np.int64)}
    _save(Store(task["root"]), task["scratch"], **arrays, **batch.arrays())
    return {"images": len(seeds)}


class _Batch:
    """Embeds in batches of bounded size, so that a task's pictures are never in memory together."""

    def __init__(self, embedder: CopyEmbedder, flips: bool) -> None:
        self.embedder, self.flips = embedder, flips
        self.waiting: list[np.ndarray] = []
        width = embedder.dim
        self.matrix, self.mirrored = [np.zeros((0, width), np.float16)], [np.zeros((0, width), np.float16)]
        self.greys = [np.zeros((0, GREY_SIDE, GREY_SIDE), np.uint8)]

    def add(self, pixels: np.ndarray) -> None:
        self.greys.append(small_grey(pixels)[None])
        self.waiting.append(pixels)
        if len(self.waiting) >= 64 or sum(p.size for p in self.waiting) > 3 * _BATCH_PIXELS:
            self.flush()

    def flush(self) -> None:
        if self.waiting:
            self.matrix.append(self.embedder(self.waiting).astype(np.float16))
            if self.flips:
                self.mirrored.append(self.embedder([p[:, ::-1] for p in self.waiting]).astype(np.float16))
            self.waiting = []

    def arrays(self) -> dict[str, np.ndarray]:
        self.flush()
        names = ("matrix", "mirrored", "greys")
        return {name: np.concatenate(getattr(self, name)) for name in names}


def small_grey(pixels: np.ndarray) -> np.ndarray:
    """uint8 H×W×3 → uint8 [96, 96], squeezed."""
    small = Image.fromarray(grey(pixels)).resize((GREY_SIDE, GREY_SIDE), Image.Resampling.LANCZOS)
    return np.asarray(small)


def _save(store: Store, prefix: str, **arrays: np.ndarray) -> None:
    out = io.BytesIO()
    np.savez(out, **arrays)  # type: ignore[arg-type]
    store.write_bytes(f"{prefix}arrays.npz", out.getvalue())


def _load(job: Job, prefix: str, names: Sequence[str]) -> dict[str, np.ndarray]:
    try:
        with np.load(io.BytesIO(job.store.read_bytes(f"{prefix}arrays.npz"))) as held:
            return {name: held[name] for name in names}
    except (DamagedDataError, zipfile.BadZipFile, ValueError, KeyError, EOFError) as error:
        raise job.stale(f"arrays that are gone or damaged ({' '.join(str(error).split())[:100]})") from error


def paths_of(described: Described) -> Sequence[str]:
    """Paths of the images that decode, in order."""
    found: list[str] = described.table["path"].to_pylist()
    return found
