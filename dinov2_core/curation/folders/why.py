"""The story of one image in the out folder of a command: every row of its tables that names the image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dinov2_core.curation.folders.job import WORK
from dinov2_core.storage import Store


def result_tables(store: Store) -> list[str]:
    """The tables directly below an out folder."""
    return [path for path in store.find("") if path.endswith(".parquet") and "/" not in path]


def rows_about(store: Store, text: str) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """``(table, rows)`` for every result table that names ``text``: a path, URL, id or hash, or its end after a ``/``.

    An id or a hash may be cut to its first six characters or more.
    """
    for name in result_tables(store):
        with store.open(name) as f:
            schema = pq.read_schema(f)
            f.seek(0)
            plain = [c.name for c in schema if not pa.types.is_fixed_size_list(c.type)]
            table = pq.read_table(f, columns=plain)
        mask = pa.array([False] * len(table), pa.bool_())
        for column in table.column_names:
            if pa.types.is_string(table.schema.field(column).type) and column not in ("reason", "mode", "source"):
                mask = pc.or_(mask, pc.fill_null(_names(table[column], text, column), False))
        found = table.filter(mask).to_pylist()
        if found:
            yield name.removesuffix(".parquet"), found


def seen_by(store: Store, text: str) -> list[str]:
    """The commands whose work folder holds the image: what a selection passed over is in no result table."""
    found = set()
    for path in store.find(WORK):
        verb = path.split("/")[1]
        if path.endswith("rows.parquet") and verb not in found:
            values = store.read_table(path, ["path"])["path"]
            if pc.any(_names(values, text, "path")).as_py():
                found.add(verb)
    return sorted(found)


def _names(values: pa.ChunkedArray, text: str, column: str) -> pa.ChunkedArray:
    same = pc.or_(pc.equal(values, text), pc.ends_with(values, f"/{text}"))
    if len(text) >= 6 and column in ("image_id", "sha256", "pixel_sha256"):
        same = pc.or_(same, pc.starts_with(values, text))
    return same
