"""The whole story of one image: every row that any table holds about it, in the order of the stages.

Answers "why is this image (not) in the set?". How the rows came about is the stages' business.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dinov2_core import manifest
from dinov2_core.errors import UserError
from dinov2_core.stages import registry
from dinov2_core.storage import Store

ID_COLUMNS = ("image_id", "a", "b", "benchmark_id", "seed_id", "duplicate_of")


@dataclass(frozen=True)
class Chapter:
    """One table's rows about an image; embeddings are left out."""

    stage: str
    partition: str
    table: str
    rows: tuple[dict[str, Any], ...]


def find_ids(store: Store, text: str) -> list[str]:
    """Image ids that ``text`` names: a whole id, the beginning of one (≥ 6 characters), or a URL."""
    found: set[str] = set()
    for partition in manifest.partitions(store, "raw_crawl"):
        made = manifest.read(store, "raw_crawl", partition)
        for part in made.table("images") if made else []:
            rows = store.read_table(part.path, ["image_id", "url"])
            match = pc.equal(rows["url"], text)
            if len(text) >= 6:
                match = pc.or_(match, pc.fill_null(pc.starts_with(rows["image_id"], text), False))
            found |= {i for i in rows.filter(match)["image_id"].to_pylist() if i}
    return sorted(found)


def tell(store: Store, image_id: str) -> Iterator[Chapter]:
    """All chapters about ``image_id``, stage by stage."""
    for stage in registry.STAGES:
        for partition in manifest.partitions(store, stage):
            made = manifest.read(store, stage, partition)
            for name in sorted(made.schemas) if made else []:
                rows: list[dict[str, Any]] = []
                for part in made.table(name) if made else []:
                    rows += _rows(store, part.path, image_id)
                if rows:
                    yield Chapter(stage, partition, name, tuple(rows))


def _rows(store: Store, path: str, image_id: str) -> list[dict[str, Any]]:
    with store.open(path) as f:
        schema = pq.read_schema(f)
        keys = [c for c in ID_COLUMNS if c in schema.names]
        if not keys:
            return []
        columns = [c.name for c in schema if not pa.types.is_fixed_size_list(c.type)]
        f.seek(0)
        table = pq.read_table(f, columns=columns, filters=[[(key, "=", image_id)] for key in keys])
    return [dict(row) for row in table.to_pylist()]


def print_story(store: Store, text: str) -> None:
    """Print the story of the image that ``text`` names.

    Raises:
        UserError: nothing or more than one image is meant.
    """
    ids = find_ids(store, text)
    if len(ids) != 1:
        what = f"'{text}' names {len(ids)} images" if ids else f"no image '{text}' was ever seen"
        raise UserError(what, where=store.root, todo="give an image id, six or more of its first characters, or a URL")
    print(f"image {ids[0]}")
    for chapter in tell(store, ids[0]):
        where = chapter.stage if chapter.partition == manifest.WHOLE else f"{chapter.stage}[{chapter.partition}]"
        print(f"\n{where} · {chapter.table}")
        print_rows(chapter.rows, ids[0])


def print_rows(rows: Sequence[dict[str, Any]], own: str) -> None:
    """Print the first twenty of ``rows``, without what is empty or the image's ``own`` name."""
    for row in rows[:20]:
        shown = {k: v for k, v in row.items() if v not in (None, "", own) and not isinstance(v, bytes)}
        print("  " + (", ".join(f"{k}: {_short(v)}" for k, v in shown.items()) or "listed"))
    if len(rows) > 20:
        print(f"  … and {len(rows) - 20} rows more")


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    text = str(value)
    return f"{text[:12]}…" if len(text) == 64 and " " not in text else text
