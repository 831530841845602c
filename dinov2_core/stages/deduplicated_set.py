"""The stage ``deduplicated_set``: which edges are copies, which images are one, which one of them stays.

Finding edges is in ``copy_edges`` and ``benchmark_edges``; here they are judged, so that a threshold can be moved
without searching again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dinov2_core import stage, tables
from dinov2_core.curation import sharded_components
from dinov2_core.curation.components import connected_components
from dinov2_core.curation.copy_rule import CopyRule, Fit, fit
from dinov2_core.curation.image_index import ImageIndex, to_bytes
from dinov2_core.curation.keep_rule import keep_order
from dinov2_core.curation.scratch import MEMORY, Scratch
from dinov2_core.curation.search_pairs import rank_in_groups
from dinov2_core.shard_map import is_local
from dinov2_core.stage import StageRun
from dinov2_core.stages import pool_tables
from dinov2_core.stages.copy_calibration import Measured, measure
from dinov2_core.stages.edge_blocks import CopyEdges
from dinov2_core.stages.pool_tables import Locations


@dataclass(frozen=True)
class Params:
    """Thresholds of the DINOv2 paper, appendix A.3, or measured ones.

    ``calibrate``: fit the rules to copies planted in a sample of the pool; the paper's thresholds are then reported
    beside them. ``precision`` and ``benchmark_precision`` are what the fits must keep: a leak that stays costs more
    than an image that goes. ``copy_share`` and ``leak_share``: how many images have a copy in the pool, and how many
    references one, as far as one can guess; they scale the measured rates to the pool.
    ``memory``: bytes for arrays over the pool, which go to files beyond it. ``edges_per_task``: with more edges than
    this, or on a cluster, the engine's workers join so many each; the components are the same.
    """

    threshold: float = 0.6
    benchmark_threshold: float = 0.45
    calibrate: bool = False
    sample: int = 800
    precision: float = 0.9
    benchmark_precision: float = 0.5
    copy_share: float = 0.05
    leak_share: float = 0.03
    memory: int = stage.efficiency(MEMORY)
    edges_per_task: int = stage.efficiency(1 << 22)


def run(run: StageRun) -> dict[str, Any]:
    """Judge all edges, join their images and keep one of each component that touches no benchmark."""
    params: Params = run.params
    with pool_tables.scratch(params.memory) as scratch:
        index = pool_tables.kept_index(run, "filtered_set", "verdicts", scratch)
        places = pool_tables.locations(run, "filtered_set", "verdicts", index, scratch)
        report: dict[str, Any] = {}
        rule, leak_rule = CopyRule(params.threshold), CopyRule(params.benchmark_threshold)
        if params.calibrate and len(index) > 1:
            rule, leak_rule, report = _calibrated(run, params, index, places, scratch)
        edges = CopyEdges(run, index, scratch)
        labels, copies = _joined(run, edges, rule, len(index), scratch)
        sizes = scratch.full(len(index), np.int32, 0)
        for start in range(0, len(index), pool_tables.BLOCK):
            np.add.at(sizes, labels[start : start + pool_tables.BLOCK], 1)
        leaks, leaked = _leaked(run, index, labels, leak_rule)
        counts = _write(run, index, labels, sizes, places, leaked, scratch)
        return {
            "images": len(index),
            "components": int(np.count_nonzero(sizes)),
            "largest_component": int(sizes.max(initial=0)),
            "edges": edges.count,
            "copy_edges": copies,
            "leak_edges": leaks,
            **counts,
            "rule": asdict(rule),
            "benchmark_rule": asdict(leak_rule),
            "paper": {"threshold": 0.6, "benchmark_threshold": 0.45},
            **report,
        }


def _joined(run: StageRun, edges: CopyEdges, rule: CopyRule, nodes: int, scratch: Scratch) -> tuple[np.ndarray, int]:
    """The label of every image by the copy edges, and how many these are."""
    copies = 0

    def accepted() -> Iterator[np.ndarray]:
        nonlocal copies
        for some in edges.blocks():
            chosen = rule.accepts(some.similarity, some.alignment)
            copies += int(chosen.sum())
            yield np.stack([some.a[chosen], some.b[chosen]], axis=1)

    if is_local(run.shard_map) and edges.count <= run.params.edges_per_task:
        return connected_components(nodes, (pairs.T for pairs in accepted()), scratch), copies
    paths = sharded_components.write_edges(run.store, run.scratch("copies"), accepted(), size=run.params.edges_per_task)
    labels = sharded_components.components(run.map, run.store, run.scratch("forests"), paths, nodes, scratch)
    return labels, copies


def _leaked(run: StageRun, index: ImageIndex, labels: np.ndarray, rule: CopyRule) -> tuple[int, dict[int, str]]:
    """How many edges to references are leaks, and for each component touched the benchmark of its closest edge."""
    k = min((int(m.params["k"]) for m in run.manifests("benchmark_edges")), default=64)
    table = run.read("benchmark_edges", "benchmark_edges")
    # A batch may hold an image that an earlier one had: the edge is then found twice.
    table = table.group_by(["image_id", "benchmark", "benchmark_id", "similarity", "alignment"]).aggregate([])
    order = [("benchmark_id", "ascending"), ("similarity", "descending"), ("image_id", "ascending")]
    table = table.select(tables.BENCHMARK_EDGES.names).sort_by(order)
    references = np.unique(np.array(table.column("benchmark_id").to_pylist(), dtype=str), return_inverse=True)[1]
    scores = [table.column(name).to_numpy().astype(np.float64) for name in ("similarity", "alignment")]
    accepted = (rank_in_groups(references) < k) & rule.accepts(scores[0], scores[1])
    leaks = table.filter(pa.array(accepted, pa.bool_()))
    positions = index.find(to_bytes(leaks.column("image_id")))
    leaked: dict[int, str] = {}
    # Of a component's leaks the most alike one names it, of equals the first by id.
    rows = zip(leaks.to_pylist(), positions.tolist(), strict=True)
    for edge, at in sorted(rows, key=lambda x: (-x[0]["similarity"], x[0]["image_id"], x[0]["benchmark_id"])):
        leaked.setdefault(int(labels[at]), edge["benchmark"])
    return len(positions), leaked


def _best(run: StageRun, index: ImageIndex, labels: np.ndarray, places: Locations, scratch: Scratch) -> np.ndarray:
    """For every label the position of its component's image to keep: int64 [N], −1 where no component has the label."""
    pixels = scratch.full(len(index), np.int64, 0)
    for block in pool_tables.kept(run, "filtered_set", "verdicts", ["width", "height"]):
        at = index.find(pool_tables.ids(block))
        pixels[at] = block.column("width").to_numpy().astype(np.int64) * block.column("height").to_numpy()
    best = scratch.full(len(index), np.int64, -1)
    for start in range(0, len(index), pool_tables.BLOCK):
        own = np.arange(start, min(start + pool_tables.BLOCK, len(index)))
        earlier = best[np.unique(labels[own])]
        # The best so far competes again. Positions sort as ids do.
        some = np.concatenate([earlier[earlier >= 0], own])
        order = some[keep_order(pixels[some], places.length[some], some)]
        found, first = np.unique(labels[order], return_index=True)
        best[found] = order[first]
    return best


def _write(
    run: StageRun,
    index: ImageIndex,
    labels: np.ndarray,
    sizes: np.ndarray,
    places: Locations,
    leaked: dict[int, str],
    scratch: Scratch,
) -> dict[str, int]:
    """Write one row an image, in order of id, and count the verdicts."""
    best = _best(run, index, labels, places, scratch)
    benchmarks = sorted(set(leaked.values()))
    leak = scratch.full(len(index), np.int16, 0)
    for component, benchmark in leaked.items():
        leak[component] = 1 + benchmarks.index(benchmark)
    texts = pa.array(["", *(f"leak of {benchmark}" for benchmark in benchmarks)])
    counts = {"copies_dropped": 0, "leaks_dropped": 0, "kept": 0}
    for part, start in enumerate(range(0, max(1, len(index)), pool_tables.BLOCK)):
        own = np.arange(start, min(start + pool_tables.BLOCK, len(index)))
        label = labels[own].astype(np.int64)
        lost = leak[label] > 0
        copy = ~lost & (best[label] != own)
        copy_of = pc.binary_join_element_wise("copy of ", index.text(best[label]), "")
        reason = pc.if_else(pa.array(copy), copy_of, texts.take(pa.array(leak[label])))
        columns = [
            index.text(own),
            index.text(label),
            pa.array(sizes[label]),
            pa.array(~(lost | copy)),
            reason,
            *places.columns(own),
        ]
        run.write_table("components", pa.table(columns, schema=tables.COMPONENTS), part)
        counts["copies_dropped"] += int(copy.sum())
        counts["leaks_dropped"] += int(lost.sum())
        counts["kept"] += int((~(lost | copy)).sum())
    return counts


def _calibrated(
    run: StageRun, params: Params, kept: ImageIndex, places: Locations, scratch: Scratch
) -> tuple[CopyRule, CopyRule, dict[str, Any]]:
    """The two fitted rules, and what was measured for the manifest."""
    index, matrix, _ = pool_tables.embeddings(run, "copy_embeddings", "copy_embeddings", scratch)
    ids = index.text(slice(None)).to_numpy(zero_copy_only=False)
    floors = [
        max(float(m.params["threshold"]) for m in run.manifests(stage)) for stage in ("copy_edges", "benchmark_edges")
    ]
    measured = measure(run, ids, matrix, places, sample=params.sample, floor=min(floors))
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
