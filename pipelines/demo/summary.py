"""The table that the demo ends with: what went in and came out of each stage, in how long, and how right it was.

Everything is read from the tables that the stages wrote; seconds come from ``timing.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from dinov2_core import manifest
from dinov2_core.manifest import Manifest
from dinov2_core.stages import registry
from dinov2_core.storage import Store
from pipelines.demo.timing import Timings


def text(store: Store, truth: Path, timings: Timings) -> str:
    """The whole summary, ready to print."""
    made = {name: _manifests(store, name) for name in registry.STAGES}
    blocks = [
        _funnel(store, made, timings),
        _planted(store, made, truth),
        _accuracy(store, made),
        _thresholds(made),
        _places(store, made),
    ]
    return "\n\n".join(blocks) + "\n"


def _manifests(store: Store, stage: str) -> list[Manifest]:
    found = (manifest.read(store, stage, p) for p in manifest.partitions(store, stage))
    return [m for m in found if m is not None]


def table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Columns aligned: text to the left, numbers to the right."""
    body = [[_cell(v) for v in row] for row in rows]
    widths = [max(len(h), *(len(r[i]) for r in body)) if body else len(h) for i, h in enumerate(heads)]
    lines = ["  ".join(h.ljust(w) for h, w in zip(heads, widths, strict=True)).rstrip()]
    lines.append("  ".join("-" * w for w in widths))
    for row in body:
        cells = [
            c.rjust(w) if c[:1].isdigit() or c[:1] in "+-" else c.ljust(w) for c, w in zip(row, widths, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 10 else f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _read(store: Store, made: Sequence[Manifest], name: str, columns: list[str]) -> Any:
    import pyarrow as pa

    return pa.concat_tables([store.read_table(f.path, columns) for m in made for f in m.table(name)])


def _funnel(store: Store, made: dict[str, list[Manifest]], timings: Timings) -> str:
    rows = []
    for name in registry.STAGES:
        into, out, what = _flow(store, name, made)
        seconds = [timings.of(m.hash) for m in made[name]]
        known = [s for s in seconds if s is not None]
        rows.append((name, into, out, what, f"{sum(known):.1f}" if known else "–"))
    return table(("stage", "in", "out", "of what", "seconds"), rows)


def _flow(store: Store, name: str, made: dict[str, list[Manifest]]) -> tuple[int | None, int | None, str]:
    """(images in, things out, what is counted) of one stage."""

    def rows(stage: str, table: str) -> int:
        return sum(f.rows or 0 for m in made[stage] for f in m.table(table))

    def kept(stage: str, table: str) -> int:
        return int(pc.sum(_read(store, made[stage], table, ["keep"])["keep"]).as_py() or 0)

    if name == "raw_crawl":
        status = _read(store, made[name], "images", ["status"])["status"]
        return len(status), int(pc.sum(pc.equal(status, "stored")).as_py()), "references → images stored"
    if name == "filtered_set":
        return rows(name, "verdicts"), kept(name, "verdicts"), "images → kept"
    if name == "deduplicated_set":
        return rows(name, "components"), kept(name, "components"), "images → kept"
    if name == "curated_lvd":
        return kept("deduplicated_set", "components"), rows(name, "packed"), "pool images → training images"
    tables = {
        "copy_embeddings": ("copy_embeddings", "images embedded"),
        "copy_edges": ("edges", "images → candidate pairs"),
        "benchmark_sets": ("labelled", "evaluation images"),
        "benchmark_edges": ("benchmark_edges", "images → candidate pairs"),
        "seed_sets": ("labelled", "seeds"),
        "embeddings": ("embeddings", "images embedded"),
        "seed_embeddings": ("embeddings", "seeds embedded"),
        "clusters": ("clusters", "images assigned"),
        "evaluation_metrics": ("metrics", "numbers"),
    }
    if name in tables:
        table, what = tables[name]
        into = rows("copy_embeddings", "copy_embeddings") if "pairs" in what else None
        return into, rows(name, table), what
    return None, None, ""


def _planted(store: Store, made: dict[str, list[Manifest]], truth: Path) -> str:
    from dinov2_core.evaluate import planted

    scores = planted.score_store(store, pq.read_table(truth).to_pylist())
    rows = [(s.stage, s.what, s.planted, s.recall, s.precision, s.note) for s in scores]
    return table(("stage", "planted", "count", "recall", "precision", "note"), rows)


def _accuracy(store: Store, made: dict[str, list[Manifest]]) -> str:
    metrics = store.read_table(made["evaluation_metrics"][0].table("metrics")[0].path).to_pylist()
    rows = [
        (
            m["dataset"],
            m["protocol"],
            m["model"],
            f"{100 * m['value']:+.2f}" if " - " in m["model"] else f"{100 * m['value']:.2f}",
            f"{100 * m['low']:.2f} … {100 * m['high']:.2f}",
            m["count"],
        )
        for m in metrics
    ]
    return table(("dataset", "protocol", "model", "percent", "95 % interval", "images"), rows)


def _thresholds(made: dict[str, list[Manifest]]) -> str:
    counts = made["deduplicated_set"][0].counts
    lines = ["thresholds: the paper's, and what was measured on this pool"]
    lines += [f"  {k}: {v}" for k, v in counts.items() if "threshold" in k or "rule" in k]
    return "\n".join(lines)


def _places(store: Store, made: dict[str, list[Manifest]]) -> str:
    page = next(f for f in made["curation_report"][0].files if f.path.endswith(".html"))
    return f"report: {store.full(page.path)}"
