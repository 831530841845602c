"""``dinov2 dedup`` and ``dinov2 leaks``: copies in a folder, and copies of a benchmark in a pool, as tables.

Finding them is in ``copies``, the page of pairs in ``pairs_page``.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pyarrow as pa

from dinov2_core.curation.copy_rule import CopyRule
from dinov2_core.curation.folders import copies, pairs_page, reading
from dinov2_core.curation.folders.copies import ALIGNED, COINCIDES, PAPER, PAPER_BENCHMARK, Calibration, Pairs, Search
from dinov2_core.curation.folders.description import Described, Model, describe, paths_of
from dinov2_core.curation.folders.job import PER_TASK, Job, markdown
from dinov2_core.curation.scratch import Scratch
from dinov2_core.errors import UserError


def dedup(uri: str, out: str, model: Model, search: Search, *, workers: int = 0) -> dict[str, Any]:
    """Write ``pairs.parquet``, ``components.parquet``, ``refused.parquet`` and ``dedup.md``; the counts."""
    with Scratch(search.memory) as scratch:
        return _dedup(Job(out, "dedup", workers), uri, model, search, scratch)


def _dedup(job: Job, uri: str, model: Model, search: Search, scratch: Scratch) -> dict[str, Any]:
    found = describe(job, uri, model, scratch)
    state = {"images": found.digest, "model": model.state(), "search": _settings(search)}
    if (said := job.finished(state)) is not None:
        return said
    measured = _measure(job, found, model, search)
    rule = search.rule or (measured.fit.rule if measured else CopyRule(PAPER))
    pairs = copies.copy_pairs(found, search, rule)
    first = copies.exact_groups(found.table)
    extra = _calibration(measured, search, PAPER)
    return written(job, state, found.rows, found.table, first, pairs, asdict(rule), extra)


def written(
    job: Job,
    state: dict[str, Any],
    rows: pa.Table,
    table: pa.Table,
    first: np.ndarray,
    pairs: Pairs,
    rule: dict[str, Any],
    extra: str = "",
) -> dict[str, Any]:
    """Join the images of ``table`` by ``pairs`` and write the results; the counts.

    Args:
        rows: of every image, refused ones included.
        first: for each image of ``table`` the first that it equals, int [N].
        extra: what the summary says besides.
    """
    labels, kept = copies.components(table, first, pairs)
    paths = np.array([*table["path"].to_pylist(), ""], dtype=object)
    again = np.flatnonzero(first != np.arange(len(first)))
    sizes = np.bincount(labels, minlength=1)
    said = {
        "images": len(rows),
        "refused": len(rows) - len(first),
        "exact copies": len(again),
        "copy pairs": len(pairs.a),
        "components of two or more": int((sizes > 1).sum()),
        "kept": int(kept.sum()),
        "rule": rule,
    }
    found = [_row(paths, a, b, 1.0, None, "exact") for a, b in zip(first[again].tolist(), again.tolist(), strict=True)]
    found += _rows(paths, paths, pairs, "copy")
    names = pa.array(paths[labels].tolist(), pa.string())
    results = {
        "pairs.parquet": pa.Table.from_pylist(found, schema=_PAIRS),
        "components.parquet": pa.table({"path": table["path"], "component": names, "kept": kept}),
        "refused.parquet": job.refused({"": rows}),
    }
    said["table"] = _table(said) + extra
    return job.finish(state, results, {"dedup.md": f"# Copies\n\n{said['table']}\n".encode()}, said)


def leaks(
    pool_uri: str, benchmark_uri: str, out: str, model: Model, search: Search, *, workers: int = 0
) -> dict[str, Any]:
    """Write ``leaks.parquet``, ``dropped.parquet``, ``leaks.html`` and ``leaks.md``; the counts."""
    with Scratch(search.memory) as scratch:
        return _leaks(Job(out, "leaks", workers), pool_uri, benchmark_uri, model, search, scratch)


def _leaks(
    job: Job, pool_uri: str, benchmark_uri: str, model: Model, search: Search, scratch: Scratch
) -> dict[str, Any]:
    for uri in (pool_uri, benchmark_uri):
        # Before hours go into the first of them.
        reading.groups(uri, PER_TASK)
    pool = describe(job, pool_uri, model, scratch, label="pool")
    benchmark = describe(job, benchmark_uri, model, scratch, label="benchmark")
    for found, uri in ((pool, pool_uri), (benchmark, benchmark_uri)):
        if not len(found.matrix):
            raise UserError("no image there decodes", where=uri, todo="see what `dinov2 screen` says of them")
    state = {"pool": pool.digest, "benchmark": benchmark.digest, "model": model.state(), "search": _settings(search)}
    if (said := job.finished(state)) is not None:
        return said
    measured = _measure(job, pool, model, search, references=len(benchmark.matrix))
    rule = search.rule or (_either(measured) if measured else CopyRule(PAPER_BENCHMARK))
    across = _across(pool, benchmark, search, rule)
    joined = copies.copy_pairs(pool, search, CopyRule(max(PAPER, rule.similarity)))
    labels, _ = copies.components(pool.table, copies.exact_groups(pool.table), joined)
    lost = np.isin(labels, labels[across.a])
    ours, theirs = (np.array([*paths_of(d), ""], dtype=object) for d in (pool, benchmark))
    rows = [
        {"pool": ours[a], "benchmark": theirs[b], "similarity": s, "alignment": None if np.isnan(t) else t}
        for a, b, s, t in zip(across.a, across.b, across.similarity.tolist(), across.alignment.tolist(), strict=True)
    ]
    results = {
        "leaks.parquet": pa.Table.from_pylist(rows, schema=_LEAKS),
        "dropped.parquet": pa.table({"path": pa.array(ours[:-1][lost].tolist(), pa.string())}),
        "refused.parquet": job.refused({"--pool": pool.rows, "--benchmark": benchmark.rows}),
    }
    said = {
        "pool images": len(pool.rows),
        "benchmark images": len(benchmark.rows),
        "refused": len(pool.rows) - len(pool.matrix),
        "refused of the benchmark": len(benchmark.rows) - len(benchmark.matrix),
        "leaking pairs": len(rows),
        "benchmark images with a copy in the pool": len(np.unique(across.b)),
        "pool images to drop, their components whole": int(lost.sum()),
        "rule": asdict(rule),
    }
    said["table"] = _table(said) + _calibration(measured, search, PAPER_BENCHMARK)
    page = pairs_page.render(rows, pool, benchmark)
    files = {"leaks.html": page.encode(), "leaks.md": f"# Leaks\n\n{said['table']}\n".encode()}
    return job.finish(state, results, files, said)


def _either(measured: Calibration) -> CopyRule:
    """What the fitted rule takes, and what is over the proposed threshold: a leak that stays costs more than an image
    that goes, and pictures of one scene moments apart do not align as planted copies do."""
    rule = measured.fit.rule
    return replace(rule, similarity=min(rule.similarity, measured.proposed.threshold))


def _settings(search: Search) -> dict[str, Any]:
    """What results depend on: not the memory."""
    return {name: value for name, value in asdict(search).items() if name != "memory"}


_PAIRS = pa.schema(
    [
        ("a", pa.string()),
        ("b", pa.string()),
        ("similarity", pa.float32()),
        ("kind", pa.string()),
        ("alignment", pa.float32()),
    ]
)
_LEAKS = pa.schema(
    [("pool", pa.string()), ("benchmark", pa.string()), ("similarity", pa.float32()), ("alignment", pa.float32())]
)


def _across(pool: Described, benchmark: Described, search: Search, rule: CopyRule) -> Pairs:
    """Pairs (pool, benchmark) that ``rule`` takes, or whose pixels are equal."""
    base = pool.matrix
    ours, _ = copies.transformed(pool, search, base)
    theirs, mirrored = copies.transformed(benchmark, search, base)
    floor = min(rule.similarity, rule.aligned_similarity)
    # From the benchmark's side: k bounds how many pool images one reference may claim, not the other way.
    query, row, similarity = copies.between(theirs, mirrored, ours, floor, search.k)
    pairs = Pairs(row, query, similarity, np.full(len(row), np.nan, np.float32))
    pairs, accepted = copies.judged(rule, pairs, pool.greys, benchmark.greys)
    hashes: dict[str, list[int]] = {}
    for i, name in enumerate(pool.table["pixel_sha256"].to_pylist()):
        hashes.setdefault(name, []).append(i)
    same = [(i, j) for j, name in enumerate(benchmark.table["pixel_sha256"].to_pylist()) for i in hashes.get(name, ())]
    a = np.concatenate([np.array([i for i, _ in same], np.int64), pairs.a[accepted]])
    b = np.concatenate([np.array([j for _, j in same], np.int64), pairs.b[accepted]])
    scores = [
        np.concatenate([np.ones(len(same), np.float32), values[accepted]])
        for values in (pairs.similarity, pairs.alignment)
    ]
    _, first = np.unique(np.stack([a, b], 1), axis=0, return_index=True)
    order = first[np.lexsort((b[first], a[first], -scores[0][first]))]
    return Pairs(a[order], b[order], scores[0][order], scores[1][order])


def _measure(
    job: Job, described: Described, model: Model, search: Search, *, references: int = 0
) -> Calibration | None:
    if not search.calibrate or len(described.matrix) < 2:
        return None
    return copies.calibrated(job, described, model, search, references=references)


def _row(paths: np.ndarray, a: int, b: int, similarity: float, alignment: float | None, kind: str) -> dict[str, Any]:
    return {"a": paths[a], "b": paths[b], "similarity": similarity, "kind": kind, "alignment": alignment}


def _rows(a_paths: np.ndarray, b_paths: np.ndarray, pairs: Pairs, kind: str) -> list[dict[str, Any]]:
    columns = (pairs.a.tolist(), pairs.b.tolist(), pairs.similarity.tolist(), pairs.alignment.tolist())
    return [_row(a_paths, a, b, s, None if np.isnan(t) else t, kind) for a, b, s, t in zip(*columns, strict=True)]


def _table(said: dict[str, Any]) -> str:
    rows = [(name, value) for name, value in said.items() if isinstance(value, int)]
    return markdown(("what", "how many"), rows)


def _calibration(measured: Calibration | None, search: Search, paper: float) -> str:
    """What was measured, as Markdown, with a warning where the paper's threshold does not fit."""
    if measured is None:
        return ""
    lines = [(x.threshold, x.recall, f"{x.false_rate:.1e}", x.precision) for x in measured.lines]
    table = markdown(("threshold", "recall", "false matches", "expected precision"), lines)
    own = next(x for x in measured.lines if x.threshold == paper)
    best, rule = measured.fit, measured.fit.rule
    aligned = (
        f", or over {rule.aligned_similarity} with alignment over {rule.alignment} less {rule.trade} a unit of "
        "similarity"
        if rule.aligned_similarity < 1
        else "; aligning pixels adds nothing"
    )
    text = (
        f"\n\n## Measured on this pool\n\n{measured.planted} planted copies; {measured.natural} pairs left out since "
        f"their originals are copies of each other.\n\n{table}\n\nFor a precision of {search.precision}: threshold "
        f"{measured.proposed.threshold} (recall {measured.proposed.recall:.3f}). `--threshold auto` uses: similarity "
        f"over {rule.similarity}{aligned} (recall {best.recall:.3f}, precision {best.precision:.3f}). False matches "
        "are counted as one more than seen, which few images cannot make few."
    )
    if best.precision < search.precision:
        text += (
            f"\n\n**Warning:** no rule is shown to reach a precision of {search.precision} here; these are the most "
            "precise. More images, or a larger `--sample`, prove more."
        )
    if own.precision < search.precision:
        text += (
            f"\n\n**Warning:** at the paper's threshold {paper} only {own.precision:.3f} of what is found here would "
        )
        text += f"be copies; {search.precision} were asked for."
    return text


def rule_of(text: str, paper: float, *, align: bool = False) -> CopyRule | None:
    """The rule of ``--threshold``: a number between −1 and 1, ``auto`` (None, fitted to the pool), or the paper's.

    ``align``: pairs that are less alike, but whose fine detail coincides, too.
    """
    if text == "auto":
        return None
    try:
        value = float(text) if text else paper
    except ValueError:
        value = 2.0
    if not -1 <= value <= 1:
        raise UserError(f"no threshold: '{text}'", where="--threshold", todo="give a number up to 1, or auto")
    return CopyRule(value, min(value, ALIGNED), COINCIDES) if align else CopyRule(value)
