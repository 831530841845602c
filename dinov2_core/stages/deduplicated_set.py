"""The stage ``deduplicated_set``: which edges are copies, which images are one, which one of them stays.

Finding edges is in ``copy_edges`` and ``benchmark_edges``; here they are judged, so that a threshold can be moved
without searching again.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from dinov2_core import tables
from dinov2_core.curation import vectors
from dinov2_core.curation.components import connected_components
from dinov2_core.curation.copy_rule import CopyRule, Fit, fit
from dinov2_core.curation.keep_rule import keep_order
from dinov2_core.stage import StageRun
from dinov2_core.stages.copy_calibration import Measured, measure
from dinov2_core.stages.copy_embeddings import kept_images


@dataclass(frozen=True)
class Params:
    """Thresholds of the DINOv2 paper, appendix A.3, or measured ones.

    ``calibrate``: fit the rules to copies planted in a sample of the pool; the paper's thresholds are then reported
    beside them. ``precision`` and ``benchmark_precision`` are what the fits must keep: a leak that stays costs more
    than an image that goes. ``copy_share`` and ``leak_share``: how many images have a copy in the pool, and how many
    references one, as far as one can guess; they scale the measured rates to the pool.
    """

    threshold: float = 0.6
    benchmark_threshold: float = 0.45
    calibrate: bool = False
    sample: int = 800
    precision: float = 0.9
    benchmark_precision: float = 0.5
    copy_share: float = 0.05
    leak_share: float = 0.03


def run(run: StageRun) -> dict[str, Any]:
    """Judge all edges, join their images and keep one of each component that touches no benchmark."""
    params: Params = run.params
    images = {row["image_id"]: row for row in kept_images(run)}
    ids = np.array(sorted(images), dtype=object)
    if params.calibrate and len(ids) > 1:
        rule, leak_rule, report = _calibrated(run, params, images)
    else:
        rule, leak_rule = CopyRule(params.threshold), CopyRule(params.benchmark_threshold)
        report = {}
    index = {name: position for position, name in enumerate(ids)}
    edges = run.read("copy_edges", "edges")
    copies = _accepted(edges, rule)
    a, b = (np.array([index[v] for v in copies.column(c).to_pylist()], dtype=np.int64) for c in ("a", "b"))
    labels = connected_components(len(ids), [(a, b)])
    leaks = _accepted(run.read("benchmark_edges", "benchmark_edges"), leak_rule).to_pylist()
    leaked: dict[int, dict[str, Any]] = {}
    for edge in sorted(leaks, key=lambda e: (-e["similarity"], e["image_id"], e["benchmark_id"])):
        leaked.setdefault(int(labels[index[edge["image_id"]]]), edge)
    rows = _judge(run, ids, labels, images, leaked)
    run.write_table("components", tables.from_rows(rows, tables.COMPONENTS))
    sizes = np.bincount(labels, minlength=len(ids)) if len(ids) else np.zeros(0, int)
    return {
        "images": len(ids),
        "components": int((sizes > 0).sum()),
        "largest_component": int(sizes.max(initial=0)),
        "edges": edges.num_rows,
        "copy_edges": len(a),
        "leak_edges": len(leaks),
        "copies_dropped": sum(row["reason"].startswith("copy of") for row in rows),
        "leaks_dropped": sum(row["reason"].startswith("leak of") for row in rows),
        "kept": sum(row["keep"] for row in rows),
        "rule": asdict(rule),
        "benchmark_rule": asdict(leak_rule),
        "paper": {"threshold": 0.6, "benchmark_threshold": 0.45},
        **report,
    }


def _accepted(edges: pa.Table, rule: CopyRule) -> pa.Table:
    scores = [edges.column(name).to_numpy(zero_copy_only=False) for name in ("similarity", "alignment")]
    return edges.filter(pa.array(rule.accepts(scores[0], scores[1].astype(np.float64)), pa.bool_()))


def _judge(
    run: StageRun,
    ids: np.ndarray,
    labels: np.ndarray,
    images: dict[str, dict[str, Any]],
    leaked: dict[int, dict[str, Any]],
) -> list[dict[str, Any]]:
    """One row an image, in order of id."""
    sizes = np.bincount(labels, minlength=len(ids))
    shapes = run.read("filtered_set", "verdicts", ["image_id", "keep", "width", "height"]).to_pylist()
    pixels = {row["image_id"]: row["width"] * row["height"] for row in shapes if row["keep"]}
    order = keep_order(
        np.array([pixels[i] for i in ids], dtype=np.int64), np.array([images[i]["length"] for i in ids]), ids
    )
    first: dict[int, int] = {}
    for position in order.tolist():
        first.setdefault(int(labels[position]), position)
    rows = []
    for position, name in enumerate(ids):
        label = int(labels[position])
        reason = ""
        if label in leaked:
            reason = f"leak of {leaked[label]['benchmark']}"
        elif first[label] != position:
            reason = f"copy of {ids[first[label]]}"
        row = dict(images[name], component=ids[label], size=int(sizes[label]), keep=not reason, reason=reason)
        rows.append(row)
    return rows


def _calibrated(
    run: StageRun, params: Params, images: dict[str, dict[str, Any]]
) -> tuple[CopyRule, CopyRule, dict[str, Any]]:
    """The two fitted rules, and what was measured for the manifest."""
    ids, matrix = vectors.sorted_unique(*vectors.from_table(run.read("copy_embeddings", "copy_embeddings")))
    floors = [
        max(float(m.params["threshold"]) for m in run.manifests(stage)) for stage in ("copy_edges", "benchmark_edges")
    ]
    measured = measure(run, ids, matrix, images, sample=params.sample, floor=min(floors))
    fits = [
        fit(
            measured.copies,
            measured.others,
            compared=measured.compared,
            unrelated_per_copy=unrelated,
            precision=wanted,
            floor=floor,
        )
        for unrelated, wanted, floor in (
            (len(ids) / 2 / params.copy_share, params.precision, floors[0]),
            (len(ids) / params.leak_share, params.benchmark_precision, floors[1]),
        )
    ]
    return fits[0].rule, fits[1].rule, {"calibration": _report(measured, fits, params)}


def _report(measured: Measured, fits: list[Fit], params: Params) -> dict[str, Any]:
    paper = CopyRule(params.threshold)
    found = fits[0].rule.accepts(measured.copies.similarity, measured.copies.alignment)
    by_paper = paper.accepts(measured.copies.similarity, measured.copies.alignment)
    wrong = paper.accepts(measured.others.similarity, measured.others.alignment)
    return {
        "planted": len(found),
        "compared": measured.compared,
        "recall": round(fits[0].recall, 4),
        "precision": round(fits[0].precision, 4),
        "benchmark_recall": round(fits[1].recall, 4),
        "benchmark_precision": round(fits[1].precision, 4),
        "paper_recall": round(float(by_paper.mean()), 4),
        "paper_false_rate": round(float(wrong.sum()) / max(measured.compared, 1), 9),
        "recall_by_kind": {
            str(kind): round(float(found[measured.kinds == kind].mean()), 4) for kind in np.unique(measured.kinds)
        },
    }
