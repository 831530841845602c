"""``dinov2 crawl``: any source of images into shards and one table, by the stage ``raw_crawl`` on its own."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from dinov2_core import stage
from dinov2_core.curation.folders.job import check_writable, markdown
from dinov2_core.errors import UserError
from dinov2_core.images.sets import files_of
from dinov2_core.stages import registry
from dinov2_core.storage import Store

COLUMNS = ("image_id", "url", "page", "status", "reason", "width", "height", "format", "bytes", "shard", "offset")

_KINDS = "a WARC file, a page, a site map, a list of URLs or images"


def crawl(source: str, out: str, params: dict[str, Any]) -> dict[str, Any]:
    """Write shards, ``images.parquet`` and ``crawl.md`` below ``out``; the counts.

    ``source``: a WARC, page, site map, URL list, folder or bucket; or the URL of a page, site map or image.

    Raises:
        UserError: nothing there, or ``out`` cannot be written.
    """
    store = Store(out)
    if not source:
        raise UserError("no source is named", todo=f"give {_KINDS}")
    if source.startswith(("http://", "https://")):
        check_writable(store)
        store.write_bytes("sources/urls/urls.txt", f"{source}\n".encode())
        source = f"{store.base if store.local else store.root}/sources/urls"
    place, _, batch = source.rstrip("/").rpartition("/")
    if "://" not in source:
        # Relative to the working folder, not to the data root.
        full = Store(source.rstrip("/")).base
        place, _, batch = full.rpartition("/")
    try:
        names = files_of(f"{place}/{batch}")[2]
    except UserError as error:
        raise UserError(error.what, where=source, todo=f"give {_KINDS}") from error
    if not names:
        raise UserError("the folder is empty", where=source, todo=f"put there {_KINDS}")
    check_writable(store)
    made = stage.materialise(store, registry.get("raw_crawl"), batch, {**params, "sources": place}).manifest
    parts = [store.read_table(record.path) for record in made.table("images")]
    table = pa.concat_tables(parts).select([*COLUMNS, "length", "alt"])
    rows = [(name, int(made.counts[name])) for name in ("references", "stored", "duplicate", "refused", "failed")]
    rows += [(f"  {reason}", int(count)) for reason, count in made.counts["reasons"].items()]
    text = markdown(("what", "how many"), rows)
    store.write_table("images.parquet", table)
    store.write_bytes("crawl.md", f"# Crawl of {batch}\n\n{text}\n".encode())
    return {**made.counts, "table": text}
