"""``dinov2 screen``: a verdict for every image of a folder; blurred copies where they are asked for.

The checks are in ``curation/screening``.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from dinov2_core import config, tables
from dinov2_core.curation import onnx_model
from dinov2_core.curation.folders import reading
from dinov2_core.curation.folders.job import PER_TASK, Job, markdown, tasks_of
from dinov2_core.curation.screening import Screen, ScreenRules, mark_duplicates
from dinov2_core.images.sets import signature
from dinov2_core.storage import Store

VERDICTS = pa.schema(
    [
        ("path", pa.string()),
        ("keep", pa.bool_()),
        ("reason", pa.string()),  # empty where kept
        ("nsfw", pa.float32()),
        ("faces", pa.list_(tables.FACE)),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("bytes", pa.int64()),
        ("mode", pa.string()),
        ("entropy", pa.float32()),
        ("sharpness", pa.float32()),
        ("sha256", pa.string()),
        ("pixel_sha256", pa.string()),
        ("pca_hash", pa.binary()),
        ("duplicate_of", pa.string()),
        ("blurred", pa.string()),  # below the out folder, where faces were blurred
    ]
)


def screen(uri: str, out: str, rules: ScreenRules, *, blur: bool = False, workers: int = 0) -> dict[str, Any]:
    """Write ``verdicts.parquet`` and ``screen.md``; the counts."""
    job = Job(out, "screen", workers)
    groups, digest = reading.groups(uri, PER_TASK)
    models = {m: onnx_model.checksum(m) for m in (rules.nsfw_model, rules.face_model) if m}
    lists = {path: signature(path) for path in rules.hash_lists}
    state = {"images": digest, "rules": config.to_plain(rules), "models": models, "lists": lists, "blur": blur}
    if (said := job.finished(state)) is not None:
        return said
    tasks = tasks_of(groups, uri=uri, rules=asdict(rules), blur=blur)
    total = None if groups[0][0].endswith(reading.CONTAINERS) else sum(len(g) for g in groups)
    done = job.map(_screen, tasks, state, label="images", total=total)
    rows = [row for prefix, _ in done for row in job.rows(prefix, VERDICTS.names).to_pylist()]
    mark_duplicates(rows, rules.hash_distance, length="bytes", name="path")
    for row in rows:
        if row["blurred"] and not row["keep"]:
            job.store.delete(row["blurred"])
            row["blurred"] = None
    reasons = Counter(row["reason"] for row in rows if not row["keep"])
    faces = sum(len(row["faces"] or []) for row in rows if row["keep"])
    table = markdown(
        ("verdict", "images"),
        [("kept", sum(row["keep"] for row in rows)), *((f"dropped: {r}", n) for r, n in sorted(reasons.items()))],
    )
    said = {"images": len(rows), "kept": sum(r["keep"] for r in rows), "faces": faces, "table": table}
    text = f"# Screening of {len(rows):,} images\n\n{table}\n\nFaces found in kept images: {faces:,}.\n"
    files = {"verdicts.parquet": tables.from_rows(rows, VERDICTS)}
    return job.finish(state, files, {"screen.md": text.encode()}, said)


def _screen(task: Mapping[str, Any]) -> dict[str, Any]:
    store = Store(task["root"])
    checks = Screen(config.build(ScreenRules, task["rules"]))
    rows = []
    for item in reading.read(task["uri"], task["names"]):
        row: dict[str, Any] = {"path": item.path, "bytes": len(item.data), "keep": False, "reason": item.reason}
        if not item.reason:
            verdict, blurred = checks.verdict(item.data)
            row |= {"sha256": hashlib.sha256(item.data).hexdigest(), **verdict}
            if blurred is not None and task["blur"]:
                row["blurred"] = _place(item.path, row["sha256"], blurred.extension)
                store.write_bytes(row["blurred"], blurred.data)
        rows.append(row)
    store.write_table(f"{task['scratch']}rows.parquet", tables.from_rows(rows, VERDICTS))
    return {"images": len(rows)}


def _place(path: str, sha256: str, extension: str) -> str:
    """Where the blurred copy of ``path`` goes: beside its name, or by its hash where a name points elsewhere."""
    parts = PurePosixPath(path).parts
    safe = not path.startswith("/") and ".." not in parts and "\\" not in path
    return f"blurred/{path}.{extension}" if safe else f"blurred/{sha256}.{extension}"
