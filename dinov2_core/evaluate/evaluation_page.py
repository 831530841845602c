"""The page of an evaluation: the tables, and the pictures and charts beside them. No script, no request.

Numbers and their files are ``score_tables.py``'s.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from dinov2_core.evaluate.figures import Figure
from dinov2_core.evaluate.paper_rows import SIZES
from dinov2_core.evaluate.protocol import Scores
from dinov2_core.evaluate.score_tables import formatted, rows

PAGE = "scores.html"
FOLDER = "pictures"
_STYLE = """body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:1100px;padding:0 1rem;color:#111;
background:#fff}table{border-collapse:collapse}td,th{padding:.25rem .6rem;border-bottom:1px solid #8884;text-align:left}
td.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}div{overflow-x:auto}figure{margin:1.2rem 0}
img{max-width:100%;background:#fff;border-radius:4px}figcaption{font-size:13px;color:#555}
@media(prefers-color-scheme:dark){body{color:#eee;background:#161616}figcaption{color:#aaa}}"""


def write(
    folder: Path, results: Sequence[Scores], *, title: str, skipped: Mapping[str, str], seen: Sequence[Figure] = ()
) -> Path:
    """``scores.html`` and the files of its ``pictures`` folder, the page last.

    Args:
        seen: figures of the model itself, which belong to no protocol.

    Returns:
        The page.
    """
    sections = [("What the model sees", list(seen))] if seen else []
    sections += [(f"{r.protocol}, {r.dataset}", list(r.figures)) for r in results if r.figures]
    parts = [f"<h1>{escape(title)}</h1>", _table(results)]
    if skipped:
        parts.append("<h2>Left out</h2><ul>")
        parts += [f"<li>{escape(name)}: {escape(reason)}</li>" for name, reason in skipped.items()]
        parts.append("</ul>")
    for number, (heading, figures) in enumerate(sections):
        parts.append(f"<h2>{escape(heading)}</h2>")
        parts += [_figure(folder, number, figure) for figure in figures]
    head = '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    text = f"{head}<title>{escape(title)}</title><style>{_STYLE}</style>{''.join(parts)}</html>\n"
    _replace(folder / PAGE, text.encode())
    return folder / PAGE


def _table(results: Sequence[Scores]) -> str:
    names = ("protocol", "data set", "metric", "score", "95 %", "images", *(f"paper {s}" for s in SIZES), "note")
    lines = ["<div><table><tr>", *(f"<th>{name}</th>" for name in names), "</tr>"]
    for row in rows(results):
        cells = formatted(row)
        classes = ["", "", "", *[' class="n"'] * (len(cells) - 4), ""]
        lines.append(
            "<tr>" + "".join(f"<td{c}>{escape(v)}</td>" for c, v in zip(classes, cells, strict=True)) + "</tr>"
        )
    return "".join([*lines, "</table></div>"])


def _figure(folder: Path, number: int, figure: Figure) -> str:
    words = re.sub(r"[^a-z0-9]+", "-", figure.name.lower()).strip("-")
    file = f"{FOLDER}/{number:02d}-{words}.{figure.suffix}"
    _replace(folder / file, figure.data())
    caption = escape(figure.caption)
    return f'<figure><img src="{file}" loading="lazy" alt="{caption}"><figcaption>{caption}</figcaption></figure>'


def _replace(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(data)
    temporary.replace(path)
