"""The stage ``curation_report``: reads every table and writes the data card, as one HTML page and a Markdown summary.

What is shown and how is in ``report``; how stages are marked against planted truth is in ``evaluate/planted``.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dinov2_core.curation import vectors
from dinov2_core.errors import UserError
from dinov2_core.evaluate import planted
from dinov2_core.evaluate.planted import Score
from dinov2_core.report import charts, page
from dinov2_core.report.funnel import funnel
from dinov2_core.report.gallery import LOCATED, Gallery
from dinov2_core.report.page import Chart, Drawn, Report, Threshold
from dinov2_core.report.thumbnails import Thumbnails
from dinov2_core.stage import StageRun
from dinov2_core.stages.evaluation_metrics import read_figures
from dinov2_core.storage import Store

TRUTH_COLUMNS = ("url", "image_id", "kind", "size", "origin_id", "transformation")


@dataclass(frozen=True)
class Params:
    """``truth``: a Parquet file saying what was planted (an address, or relative to the data root); empty for none.

    ``images``: most pictures of a gallery, ``pairs``: most pairs shown side by side, ``seeds``: rows of neighbours.
    """

    title: str = "Curation report"
    truth: str = ""
    images: int = 22
    pairs: int = 12
    seeds: int = 10
    neighbours: int = 8


def external(store: Store, partition: str, params: Params) -> dict[str, str]:
    """The checksum of the truth file."""
    return {"truth": hashlib.sha256(_truth_bytes(store, params)).hexdigest()} if params.truth else {}


def _truth_bytes(store: Store, params: Params) -> bytes:
    place = params.truth if "://" in params.truth or params.truth.startswith("/") else f"{store.root}/{params.truth}"
    try:
        with fsspec.open(place, "rb") as f:
            return bytes(f.read())
    except (OSError, ValueError, ImportError) as error:
        raise UserError(
            f"the planted truth cannot be read: {error}",
            where=f"curation_report: {place}",
            todo="mend the setting 'truth', or leave it empty where nothing was planted",
        ) from error


def run(run: StageRun) -> dict[str, Any]:
    """Gather, render, write."""
    report = _report(run)
    html = page.html(report).encode()
    run.write_file("report", "html", html)
    run.write_file("summary", "md", page.markdown(report).encode())
    return {
        "funnel": {step.name: step.count for step in report.funnel},
        "training_images": report.training_images,
        "page_bytes": len(html),
        "planted": {f"{s.stage}: {s.what}": _marks(s) for s in report.planted},
    }


def _marks(score: Score) -> dict[str, float | None]:
    rounded = [None if value is None else round(value, 4) for value in (score.recall, score.precision)]
    return {"count": score.planted, "recall": rounded[0], "precision": rounded[1]}


def _report(run: StageRun) -> Report:
    params: Params = run.params
    images = run.read("raw_crawl", "images", ["image_id", "url", "alt", "status", "reason"])
    verdicts = run.read("filtered_set", "verdicts")
    components = run.read("deduplicated_set", "components")
    packed = run.read("curated_lvd", "packed")
    metrics = run.read("evaluation_metrics", "metrics").to_pylist()
    seeds = run.read("seed_sets", "labelled")
    gallery = Gallery(Thumbnails(run.store), _origins(images))
    faces = _with_faces(verdicts)
    pool = components.filter(components["keep"])
    undrawn = pool.filter(pc.invert(pc.is_in(pool["image_id"], value_set=packed["image_id"].combine_chunks())))
    return Report(
        title=params.title,
        funnel=funnel(images, verdicts, components, packed),
        training_images=packed.num_rows,
        composition=run.read("curated_lvd", "composition").to_pylist(),
        metrics=metrics,
        accuracy=_accuracy(metrics),
        drawn=_drawn(run),
        curves=_curves(run.read("pretrained_checkpoint", "history")),
        planted=_planted(run, images, verdicts, components, packed),
        thresholds=_thresholds(run),
        kept=gallery.sample(packed, 2 * params.images, "source"),
        undrawn=gallery.sample(undrawn.select(LOCATED), params.images),
        faces=gallery.sample(faces.select(LOCATED), params.images),
        faces_count=len(faces),
        dropped=gallery.dropped(verdicts, params.images // 2),
        duplicates=gallery.duplicates(verdicts, params.pairs // 2),
        copies=gallery.copies(components, run.read("copy_edges", "edges"), params.pairs),
        leaks=gallery.leaks(
            components,
            run.read("benchmark_edges", "benchmark_edges"),
            run.read("benchmark_sets", "labelled"),
            params.pairs,
        ),
        neighbours=gallery.neighbours(
            seeds, _vectors(run, "seed_embeddings"), pool, _vectors(run, "embeddings"), params.seeds, params.neighbours
        ),
        versions=_versions(run),
    )


def _origins(images: pa.Table) -> dict[str, tuple[str, str]]:
    """image id → where it was first found, and what the page said about it."""
    stored = images.filter(pc.equal(images["status"], "stored")).select(["image_id", "url", "alt"])
    return {row["image_id"]: (row["url"] or "", row["alt"] or "") for row in reversed(stored.to_pylist())}


def _with_faces(verdicts: pa.Table) -> pa.Table:
    count = pc.fill_null(pc.list_value_length(verdicts["faces"]), 0)
    return verdicts.filter(pc.and_(verdicts["keep"], pc.greater(count, 0)))


def _vectors(run: StageRun, stage: str) -> Any:
    return vectors.sorted_unique(*vectors.from_table(run.read(stage, "embeddings")))


def _planted(run: StageRun, *found: pa.Table) -> Sequence[Score]:
    if not run.params.truth:
        return ()
    where = f"{run.where}: {run.params.truth}"
    try:
        table = pq.read_table(pa.BufferReader(_truth_bytes(run.store, run.params)))
    except pa.ArrowInvalid as error:
        raise UserError(f"the planted truth is no Parquet file: {error}", where=where, todo="write it again") from error
    if missing := [name for name in TRUTH_COLUMNS if name not in table.column_names]:
        raise UserError(
            f"the planted truth has no column '{missing[0]}'",
            where=where,
            todo=f"give it the columns {', '.join(TRUTH_COLUMNS)}",
        )
    return planted.score(table.to_pylist(), planted.Outcome.of(*found))


def _accuracy(metrics: Sequence[Mapping[str, Any]]) -> list[Chart]:
    groups: dict[str, list[charts.Interval]] = {}
    for row in metrics:
        if row["metric"] == "accuracy":
            title = f"{row['dataset']}, {'k-NN' if row['protocol'] == 'knn' else row['protocol']}"
            interval = charts.Interval(row["model"], row["value"], row["low"], row["high"], row["model"] == "trained")
            groups.setdefault(title, []).append(interval)
    return [Chart(title, charts.intervals(rows, title=title)) for title, rows in groups.items()]


def _drawn(run: StageRun) -> list[Drawn]:
    """The figures of the evaluation, as they lie in its folder."""
    made = run.manifests("evaluation_metrics")[0]
    kinds = {"svg": "svg+xml", "png": "png"}
    found = []
    for row in read_figures(run.store, made):
        kind = kinds[row["path"].rsplit(".", 1)[1]]
        data = base64.b64encode(run.store.read_bytes(row["path"])).decode()
        found.append(Drawn(f"{row['dataset']}: {row['caption']}", f"data:image/{kind};base64,{data}"))
    return found


def _curves(history: pa.Table) -> list[Chart]:
    """The total first, then each term."""
    terms = {"total": "total loss", "dino_global": "DINO, global crops", "dino_local": "DINO, local crops"}
    terms |= {"ibot": "iBOT, masked patches", "koleo": "KoLeo"}
    points: dict[str, list[tuple[float, float]]] = {name: [] for name in terms}
    for row in history.sort_by("step").to_pylist():
        if row["name"] in points:
            points[row["name"]].append((row["step"], row["value"]))
    return [Chart(terms[name], charts.line(p, title=terms[name])) for name, p in points.items() if len(p) > 1]


def _thresholds(run: StageRun) -> list[Threshold]:
    """The paper's two thresholds beside the rules in use, with what the calibration measured of them."""
    counts = run.manifests("deduplicated_set")[0].counts
    measured = counts.get("calibration", {})
    rows = []
    for name, rule, paper, prefix in (
        ("copies inside the pool", "rule", "threshold", ""),
        ("copies of benchmark images", "benchmark_rule", "benchmark_threshold", "benchmark_"),
    ):
        expected = ""
        if measured:
            recall, precision = measured[f"{prefix}recall"], measured[f"{prefix}precision"]
            expected = f"recall {recall:.3f}, precision {precision:.3f}"
            if not prefix:
                # Unrelated pairs in a million say what chaining a pool together costs.
                by_paper, wrong = measured["paper_recall"], 1e6 * measured["paper_false_rate"]
                expected += f"; the paper's: recall {by_paper:.3f}, {wrong:.1f} in a million unrelated pairs joined"
        rows.append(Threshold(name, f"similarity > {counts['paper'][paper]}", _said(counts[rule]), expected))
    return rows


def _said(rule: Mapping[str, float]) -> str:
    said = [f"similarity > {rule['similarity']:g}"] if rule["similarity"] < 1 else []
    if rule["aligned_similarity"] < 1:
        less = f" - {rule['trade']:g} × the similarity over that" if rule["trade"] else ""
        said.append(f"similarity > {rule['aligned_similarity']:g} and aligned pixels > {rule['alignment']:g}{less}")
    return ", or ".join(said) or "nothing is a copy"


def _versions(run: StageRun) -> dict[str, str]:
    """The manifests read, and those that they were made from."""
    found = {key: made.hash for key, made in run.upstream.items()}
    for made in run.upstream.values():
        found |= {key: value for key, value in made.upstream.items() if key not in found}
    return dict(sorted(found.items()))
