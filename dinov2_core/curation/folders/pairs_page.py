"""A page that shows pairs of images side by side, with no request to anywhere. Which pairs is decided elsewhere."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from dinov2_core.curation.folders import reading
from dinov2_core.curation.folders.description import Described
from dinov2_core.report import thumbnails

SHOWN = 300
_STYLE = (
    "body{font:15px system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem}"
    "td{padding:.4rem .8rem;vertical-align:top}img{min-width:64px;image-rendering:auto}td small{word-break:break-all}"
)


def render(rows: Sequence[Mapping[str, Any]], pool: Described, benchmark: Described) -> str:
    """HTML of the first ``SHOWN`` of ``rows`` (``pool``, ``benchmark``, ``similarity``)."""
    some = rows[:SHOWN]
    sides = []
    for name, described in (("pool", pool), ("benchmark", benchmark)):
        paths = {str(row[name]) for row in some}
        names = [n for group in described.groups for n in group]
        data = reading.fetch(described.uri, paths, names) if paths else {}
        sides.append({path: thumbnails.make(held) for path, held in data.items()})
    lines = []
    for row in some:
        cells = [_cell(str(row[name]), side) for name, side in zip(("pool", "benchmark"), sides, strict=True)]
        lines.append(f"<tr>{''.join(cells)}<td>{row['similarity']:.3f}</td></tr>")
    beyond = f"<p>{len(rows) - len(some):,} more are in leaks.parquet.</p>" if len(rows) > len(some) else ""
    head = "<tr><th>pool</th><th>benchmark</th><th>similarity</th></tr>"
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>Leaks</title><style>{_STYLE}</style>"
        f"<h1>{len(rows):,} pairs of a pool and a benchmark image</h1><table>{head}{''.join(lines)}</table>{beyond}"
    )


def _cell(path: str, side: Mapping[str, thumbnails.Thumbnail]) -> str:
    picture = side.get(path)
    shown = f"<img src='{picture.source}' alt=''>" if picture else ""
    return f"<td>{shown}<br><small>{html.escape(path)}</small></td>"
