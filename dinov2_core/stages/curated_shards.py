"""Packing the curated set: the bytes of the chosen images, in the mix's order, into training shards.

Which images are chosen is decided in ``curated_lvd``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from dinov2_core import tables
from dinov2_core.curation.image_index import ImageIndex
from dinov2_core.curation.scratch import Scratch
from dinov2_core.images.decode import EXTENSIONS, Refused, probe
from dinov2_core.images.shards import ShardWriter, read_image
from dinov2_core.stage import StageRun
from dinov2_core.stages import pool_tables
from dinov2_core.storage import Store


def pack(
    run: StageRun,
    pool: ImageIndex,
    seeds: ImageIndex,
    seed_rows: Mapping[str, Mapping[str, Any]],
    chosen: np.ndarray,
    source: np.ndarray,
    sources: Sequence[str],
    scratch: Scratch,
) -> None:
    """Write training shards and the table ``packed``.

    Args:
        seed_rows: the locations of the seeds, by id.
        chosen: numbers of images in order, the pool's first and then the seeds': int64 [P].
        source: which of ``sources`` brought each, int [P].
    """
    places = pool_tables.locations(run, "deduplicated_set", "components", pool, scratch)
    size = run.params.images_per_task
    names = np.array(sources, dtype=object)
    tasks = {}
    for start in range(0, len(chosen), size):
        some = chosen[start : start + size]
        rows: list[dict[str, Any]] = [{} for _ in some]
        inside = np.flatnonzero(some < len(pool))
        for at, row in zip(inside.tolist(), places.at(some[inside]), strict=True):
            rows[at] = row
        outside = np.flatnonzero(some >= len(pool))
        for at, name in zip(outside.tolist(), seeds.text(some[outside] - len(pool)).to_pylist(), strict=True):
            rows[at] = {"image_id": name, **{key: seed_rows[name][key] for key in pool_tables.LOCATION}}
        table = pa.Table.from_pylist(rows).append_column("source", pa.array(names[source[start : start + size]]))
        key = f"{start // size:06d}"
        path = run.scratch(f"chosen-{key}.parquet")
        # Tasks name their list and do not hold it: there may be as many images as the whole pool has.
        run.store.write_table(path, table.select(tables.PACKED.names))
        tasks[key] = {"chosen": path, "folder": run.folder}
    run.map(_pack, tasks, label="packing", unit=lambda summary: int(summary["images"]), total=len(chosen))


def _pack(task: Mapping[str, Any]) -> dict[str, Any]:
    store = Store(task["root"])
    images = store.read_table(task["chosen"]).to_pylist()
    with ShardWriter(store, task["folder"], max_images=max(1, len(images))) as writer:
        for row in images:
            data = read_image(store, row)
            kind = probe(data)
            # The filter and the seeds' stage have decoded every image that gets here.
            assert not isinstance(kind, Refused)
            writer.add(data, EXTENSIONS[kind.format], identity=row["image_id"])
    rows = [{**row, **writer.locations[row["image_id"]]} for row in images]
    path = task["stem"].format(name="packed") + ".parquet"
    packed = store.write_table(path, tables.from_rows(rows, tables.PACKED))
    return {"files": [*writer.files, packed], "images": len(images)}
