"""``dinov2 dedup --method hash``: copies by the low frequencies of thumbnails, without a network.

The hash is in ``curation/copy_hash``; copies by a network, and how results are written, are in ``dedup``.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from dinov2_core.curation import copy_hash
from dinov2_core.curation.copy_rule import CopyRule
from dinov2_core.curation.folders import reading
from dinov2_core.curation.folders.copies import Pairs, exact_groups
from dinov2_core.curation.folders.dedup import written
from dinov2_core.curation.folders.description import ROW
from dinov2_core.curation.folders.job import PER_TASK, Job, tasks_of
from dinov2_core.curation.scratch import MEMORY, Scratch
from dinov2_core.errors import DamagedDataError
from dinov2_core.images.decode import Refused, decode, probe
from dinov2_core.storage import Store


def dedup_by_hash(
    uri: str,
    out: str,
    *,
    threshold: float = copy_hash.THRESHOLD,
    k: int = 64,
    memory: int = MEMORY,
    workers: int = 0,
) -> dict[str, Any]:
    """Write what ``dedup.dedup`` writes; the counts. Pairs of the kind ``exact`` have equal bytes here."""
    job = Job(out, "dedup", workers)
    groups, digest = reading.groups(uri, PER_TASK)
    state = {"images": digest, "method": "hash", "threshold": threshold, "k": k}
    if (said := job.finished(state)) is not None:
        return said
    total = None if groups[0][0].endswith(reading.CONTAINERS) else sum(len(g) for g in groups)
    done = job.map(_hash, tasks_of(groups, uri=uri), {"images": digest}, label="thumbnails", total=total)
    rows = pa.concat_tables([job.rows(prefix, ROW.names) for prefix, _ in done])
    good = rows.filter(pa.compute.equal(rows["reason"], ""))
    order = np.argsort(np.array(good["path"].to_pylist(), dtype=object), kind="stable")
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    table = good.take(order)
    first = exact_groups(table, "sha256")
    single = np.flatnonzero(first == np.arange(len(first)))
    with Scratch(memory) as scratch:
        thumbnails = scratch.empty((len(single), copy_hash.SIDE, copy_hash.SIDE), np.uint8)
        at = 0
        for prefix, _ in done:
            part = _load(job, prefix)
            own = place[at : at + len(part)]
            alone = first[own] == own
            thumbnails[np.searchsorted(single, own[alone])] = part[alone]
            at += len(part)
        a, b, score = copy_hash.copy_pairs(thumbnails, threshold, k, scratch=scratch)
    pairs = Pairs(single[a], single[b], score, np.full(len(a), np.nan, np.float32))
    return written(job, state, rows, table, first, pairs, asdict(CopyRule(threshold)))


def _load(job: Job, prefix: str) -> np.ndarray:
    try:
        found: np.ndarray = np.load(io.BytesIO(job.store.read_bytes(f"{prefix}thumbnails.npy")))
    except (DamagedDataError, ValueError, EOFError) as error:
        raise job.stale("thumbnails that are gone or damaged") from error
    return found


def _hash(task: Mapping[str, Any]) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    found = [np.zeros((0, copy_hash.SIDE, copy_hash.SIDE), np.uint8)]
    for item in reading.read(task["uri"], task["names"]):
        row: dict[str, Any] = {"path": item.path, "reason": item.reason, "bytes": len(item.data)}
        decoded = decode(item.data, enough=copy_hash.ENOUGH) if not item.reason else Refused(item.reason)
        header = probe(item.data)
        if isinstance(decoded, Refused) or isinstance(header, Refused):
            row["reason"] = decoded.reason if isinstance(decoded, Refused) else "damaged"
        else:
            row |= {"sha256": hashlib.sha256(item.data).hexdigest(), "width": header.width, "height": header.height}
            found.append(copy_hash.thumbnail(decoded.pixels)[None])
        rows.append(row)
    store, out = Store(task["root"]), io.BytesIO()
    np.save(out, np.concatenate(found))
    store.write_table(f"{task['scratch']}rows.parquet", pa.Table.from_pylist(rows, schema=ROW))
    store.write_bytes(f"{task['scratch']}thumbnails.npy", out.getvalue())
    return {"images": len(rows)}
