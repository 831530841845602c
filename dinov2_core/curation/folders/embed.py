"""``dinov2 embed``: one vector for every image of a folder. The encoders are in ``embedder`` and ``copy_detection``."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from dinov2_core import parts, tables
from dinov2_core.curation import onnx_model
from dinov2_core.curation.copy_detection import CopyEmbedder
from dinov2_core.curation.folders import reading
from dinov2_core.curation.folders.job import PER_TASK, Job, markdown, tasks_of
from dinov2_core.images.decode import Refused, decode
from dinov2_core.storage import Store

Encoder = Callable[[list[np.ndarray]], np.ndarray]


def embed(uri: str, out: str, weights: str, *, workers: int = 0) -> dict[str, Any]:
    """Write ``embeddings.parquet`` (path, embedding) and ``refused.parquet``; the counts."""
    job = Job(out, "embed", workers)
    found = vectors_of(job, uri, weights)
    if (before := job.finished(found.state)) is not None:
        return before
    refused = found.refused()
    said: dict[str, Any] = {"images": found.images, "refused": len(refused), "width": found.width}
    said["table"] = markdown(("what", "how many"), [(k, v) for k, v in said.items() if isinstance(v, int)])
    text = f"# Embeddings by {weights}\n\n{said['table']}\n"
    good = (good_rows(part) for part in found.parts())
    results = {"embeddings.parquet": good, "refused.parquet": job.refused({"": refused})}
    return job.finish(found.state, results, {"embed.md": text.encode()}, said)


@dataclass(frozen=True)
class Vectors:
    """Embeddings that lie in files, ``(path, reason, embedding)`` of every image (zeros where refused); their state."""

    job: Job
    prefixes: list[str]
    images: int
    width: int
    state: dict[str, Any]

    def parts(self) -> Iterator[pa.Table]:
        """The rows of one task after another."""
        for prefix in self.prefixes:
            yield self.job.rows(prefix, ("path", "reason", "embedding"))

    def refused(self) -> pa.Table:
        """``(path, reason)`` of what was refused."""
        parts = [part.select(["path", "reason"]) for part in self.parts()]
        return pa.concat_tables([part.filter(pa.compute.not_equal(part["reason"], "")) for part in parts])


def vectors_of(job: Job, uri: str, weights: str, label: str = "images") -> Vectors:
    """Embed every image at ``uri``; what was embedded before is not done again."""
    groups, digest = reading.groups(uri, PER_TASK)
    state = {"images": digest, "weights": checksum(weights)}
    tasks = tasks_of(groups, uri=uri, weights=weights, version=state["weights"])
    total = None if groups[0][0].endswith(reading.CONTAINERS) else sum(len(g) for g in groups)
    done = job.map(_embed, tasks, state, label=label, total=total)
    images = sum(int(summary["images"]) for _, summary in done)
    if "width" not in done[0][1]:
        raise job.stale("embeddings of no stated width")
    return Vectors(job, [prefix for prefix, _ in done], images, int(done[0][1]["width"]), state)


def good_rows(part: pa.Table) -> pa.Table:
    """``(path, embedding)`` of what was not refused."""
    return part.filter(pa.compute.equal(part["reason"], "")).select(["path", "embedding"])


def checksum(weights: str) -> str:
    """What names the weights' version: the checksum of a file, or of all files of a folder."""
    if Path(weights).is_dir():
        total = hashlib.sha256()
        for path in sorted(p for p in Path(weights).iterdir() if p.is_file()):
            total.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
        return total.hexdigest()
    return onnx_model.checksum(weights)


@functools.lru_cache(maxsize=2)
def encoder(weights: str, version: str) -> tuple[Encoder, int]:
    """The function pixels → float32 [N, D] of ``weights``, made once a process, and D."""
    if weights in parts.PARTS or weights.endswith((".onnx", ".torchscript.pt")):
        copy = CopyEmbedder(weights)
        return copy, copy.dim
    from dinov2_core.embedder import Embedder
    from dinov2_core.model import weights as files

    vit = Embedder(*files.load(weights))
    return vit, vit.dim


def _embed(task: Mapping[str, Any]) -> dict[str, Any]:
    run, width = encoder(task["weights"], task["version"])
    paths, reasons, waiting = [], [], []
    found = [np.zeros((0, width), np.float16)]
    for item in reading.read(task["uri"], task["names"]):
        decoded = Refused(item.reason) if item.reason else decode(item.data)
        paths.append(item.path)
        reasons.append(decoded.reason if isinstance(decoded, Refused) else "")
        if not isinstance(decoded, Refused):
            waiting.append(decoded.pixels)
        if len(waiting) >= 64 or sum(p.size for p in waiting) > 1e8:
            found.append(run(waiting).astype(np.float16))
            waiting = []
    if waiting:
        found.append(run(waiting).astype(np.float16))
    good = np.concatenate(found)
    # Zeros where refused: Parquet readers disagree about missing lists of fixed size.
    every = np.zeros((len(paths), width), np.float16)
    every[np.array([not reason for reason in reasons], bool)] = good
    column = pa.FixedSizeListArray.from_arrays(
        pa.array(every.reshape(-1), tables.embedding_type(width).value_type), width
    )
    columns = {"path": pa.array(paths, pa.string()), "reason": pa.array(reasons, pa.string()), "embedding": column}
    Store(task["root"]).write_table(f"{task['scratch']}rows.parquet", pa.table(columns))
    return {"images": len(paths), "width": width}
