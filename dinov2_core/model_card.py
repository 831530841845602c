"""The model card: what a model is, what it was trained and judged on, under which licence, and where it ends.

Plain facts in, Markdown out. Where the facts come from is in ``stages/registered_model.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_MARKS = str.maketrans({"|": "\\|", "<": "&lt;", "\n": " ", "\r": " ", "`": "'"})


@dataclass(frozen=True)
class Facts:
    """``composition`` and ``metrics`` are rows of the tables of these names; ``manifests`` maps ``stage/partition`` to
    the hash that names the data; ``leaks`` is what ``training_leaks.count`` gave."""

    name: str
    licence: str
    model: Mapping[str, Any]
    preprocessing: Mapping[str, Any]
    parameters: int
    composition: Sequence[Mapping[str, Any]]
    images: int
    metrics: Sequence[Mapping[str, Any]]
    leaks: Mapping[str, int]
    manifests: Mapping[str, str]


def write(facts: Facts) -> str:
    """The card. Names from data are escaped: they end on pages."""
    model, leaked = facts.model, sum(facts.leaks.values())
    about = (
        f"A self-supervised vision transformer (DINOv2 objective, arXiv 2304.07193): {model['depth']} blocks of width "
        f"{model['dim']}, patch {model['patch']}, input {facts.preprocessing['size']} pixels, "
        f"{facts.parameters:,} parameters. "
        f"It turns an image into {model['dim']} numbers; no label was used to train it."
    )
    parts = ", ".join(f"{count} {kind}" for kind, count in facts.leaks.items())
    sections = {
        "Training data": [
            f"{facts.images:,} images, drawn around curated seeds:",
            "",
            _table(
                ("task", "seed set", "queries", "mode", "retrieved", "final"),
                [
                    (r["task"], r["dataset"], r["queries"], r["mode"], r["retrieved"], r["final"])
                    for r in facts.composition
                ],
            ),
        ],
        "Evaluation (frozen features, 95 % bootstrap interval)": [
            _table(
                ("data", "protocol", "model", "metric", "value", "interval", "images"),
                [
                    (
                        *(r[key] for key in ("dataset", "protocol", "model", "metric")),
                        f"{100 * r['value']:.1f}",
                        f"{100 * r['low']:.1f} to {100 * r['high']:.1f}",
                        r["count"],
                    )
                    for r in facts.metrics
                ],
            ),
            "",
            f"Images of the training set that show evaluation images, as far as copies were found: {leaked} ({parts}).",
        ],
        "Licence": [facts.licence + "."],
        "Limits": [
            "- Trained on the images listed above only; expect little on other kinds of image or at other sizes.",
            "- Filters for unsafe content, faces and copies are models that err: see the curation report.",
            "- Copies of evaluation images that copy detection did not find are not counted as leaks.",
            "- Features carry whatever bias the pool and the seeds have. No audit by group of people was made."
            if not any(r["protocol"] == "fairness" for r in facts.metrics)
            else "- Features carry whatever bias the pool and the seeds have; accuracy by group is in the table above.",
        ],
        "Data versions": [
            "The hash of a manifest names the data everywhere: in the orchestrator, the tracker and DVC.",
            "",
            _table(("data", "manifest"), [(key, value) for key, value in sorted(facts.manifests.items())]),
        ],
    }
    lines = [f"# {_plain(facts.name)}", "", about, ""]
    for title, body in sections.items():
        lines += [f"## {title}", "", *body, ""]
    return "\n".join(lines)


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    body = [" | ".join(_plain(v) for v in row) for row in rows]
    return "\n".join(f"| {line} |" for line in (" | ".join(head), " | ".join("---" for _ in head), *body))


def _plain(value: Any) -> str:
    return str(value).translate(_MARKS)
