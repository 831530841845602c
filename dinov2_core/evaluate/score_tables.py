"""Scores as a Markdown table and as JSON, each with its interval and the paper's row beside it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dinov2_core.evaluate.paper_rows import SIZES, papers
from dinov2_core.evaluate.protocol import Scores


def rows(results: Sequence[Scores]) -> list[dict[str, Any]]:
    """One flat row a score: plain values, fit for JSON or a tracking table."""
    return [
        {
            "protocol": result.protocol,
            "dataset": result.dataset,
            "metric": s.name,
            "value": s.value,
            "low": s.low,
            "high": s.high,
            "images": s.n,
            "note": s.note,
            "share": s.share,
            **{f"paper {size}": value for size, value in papers(result.protocol, result.dataset, s.name).items()},
        }
        for result in results
        for s in result.scores
    ]


def formatted(row: Mapping[str, Any]) -> list[str]:
    """The cells of a row of :func:`rows`: per cent where it is a share."""
    factor, form = (100, ".1f") if row["share"] else (1, ".3f")
    value, low, high = (format(factor * row[key], form) for key in ("value", "low", "high"))
    cells = [row["protocol"], row["dataset"], row["metric"], value, f"{low} – {high}", f"{row['images']:,}"]
    cells += [format(row[f"paper {s}"], form) if f"paper {s}" in row else "" for s in SIZES]
    return [*cells, row["note"]]


def markdown(results: Sequence[Scores], *, title: str, skipped: Mapping[str, str]) -> str:
    """The table in per cent, and what was left out with its reason."""
    lines = [
        f"# {title}",
        "",
        "Per cent (RMSE: metres), with the 95 % bootstrap interval; the paper's ViT-S, -B, -L and -g beside.",
        "",
    ]
    lines += [
        "| protocol | data set | metric | score | 95 % | images | "
        + " | ".join(f"paper {s}" for s in SIZES)
        + " | note |",
        "|---|---|---|---|---|---|" + "---|" * (len(SIZES) + 1),
    ]
    lines += ["| " + " | ".join(formatted(row)) + " |" for row in rows(results)]
    if skipped:
        lines += ["", "Left out:", "", *(f"- `{name}`: {reason}" for name, reason in skipped.items())]
    return "\n".join(lines) + "\n"


def write(
    folder: Path, results: Sequence[Scores], *, title: str, skipped: Mapping[str, str], about: Mapping[str, Any]
) -> None:
    """``scores.md`` and ``scores.json`` in ``folder``, each replaced whole."""
    folder.mkdir(parents=True, exist_ok=True)
    details = {f"{r.protocol} {r.dataset}": dict(r.details) for r in results}
    content = {**about, "scores": rows(results), "details": details, "skipped": dict(skipped)}
    texts = {"scores.md": markdown(results, title=title, skipped=skipped), "scores.json": json.dumps(content, indent=1)}
    for name, text in texts.items():
        temporary = folder / f".{name}.{os.getpid()}"
        temporary.write_text(text)
        temporary.replace(folder / name)
