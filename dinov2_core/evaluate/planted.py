"""What was planted against what the pipeline made of it: recall and precision of each stage, from tables alone.

Truth is one row a planted image: ``url``, ``image_id`` (null where no whole image is served), ``kind``, ``size``
(small | large), ``origin_id`` (of a copy), ``transformation``. Planting itself does not belong here, nor does running
anything.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dinov2_core import manifest, tables
from dinov2_core.storage import Store

Row = Mapping[str, Any]

ORDINARY = ("cifar", "photo", "copy")
"""Kinds between which every copy is known; what else is alike (two emoji, two faces) may be so by nature."""
REFUSED = ("restricted", "broken")
DUPLICATE = "duplicate"


@dataclass(frozen=True)
class Part:
    """One kind of planted thing inside a score: a transformation, or a reason with which things were refused."""

    name: str
    planted: int
    found: int


@dataclass(frozen=True)
class Score:
    """``recall``: of what was planted. ``precision``: of what the stage claimed, None where it claims nothing."""

    stage: str
    what: str
    planted: int
    found: int
    precision: float | None = None
    note: str = ""
    parts: tuple[Part, ...] = ()

    @property
    def recall(self) -> float | None:
        return self.found / self.planted if self.planted else None


@dataclass(frozen=True)
class Outcome:
    """The pipeline's tables, reduced to what scoring looks up."""

    references: Mapping[str, Sequence[Row]]  # URL → its rows of raw_crawl
    stored: int  # distinct images stored
    verdicts: Mapping[str, Row]  # image id → its row of filtered_set, a kept one where there are several
    components: Mapping[str, Row]  # image id → its row of deduplicated_set
    selected: frozenset[str]  # images of the pool that are in the training set
    faces: Mapping[str, int] = field(default_factory=dict)  # image id → faces found

    @classmethod
    def of(cls, images: pa.Table, verdicts: pa.Table, components: pa.Table, packed: pa.Table) -> Outcome:
        """From the tables ``images``, ``verdicts``, ``components`` and ``packed`` of all partitions."""
        references: dict[str, list[Row]] = defaultdict(list)
        for row in images.select(["url", "image_id", "status", "reason"]).to_pylist():
            references[row["url"]].append(row)
        judged: dict[str, Row] = {}
        for row in verdicts.select(["image_id", "keep", "reason", "duplicate_of", "faces"]).to_pylist():
            # The same image may be in several batches.
            if row["image_id"] not in judged or row["keep"]:
                judged[row["image_id"]] = row
        joined = {r["image_id"]: r for r in components.select(["image_id", "component", "keep", "reason"]).to_pylist()}
        chosen = frozenset(packed["image_id"].to_pylist()) & joined.keys()
        stored = pc.count_distinct(images.filter(pc.equal(images["status"], "stored"))["image_id"]).as_py()
        faces = {name: len(row["faces"]) for name, row in judged.items() if row["faces"]}
        return cls(references, stored, judged, joined, chosen, faces)

    def group(self, image_id: str) -> str | None:
        """What the image was taken for one with: a component's name; None where it was dropped before."""
        row = self.verdicts.get(image_id)
        while row is not None and not row["keep"] and row["reason"] == DUPLICATE:
            image_id = row["duplicate_of"]
            row = self.verdicts.get(image_id)
        found = self.components.get(image_id)
        return found["component"] if found else None

    def fate(self, url: str) -> tuple[str, str]:
        """``(status, reason)``: not seen | refused | failed (by the crawl) | dropped (by the filter) | kept."""
        rows = self.references.get(url, ())
        if not rows:
            return "not seen", ""
        held = next((r for r in rows if r["image_id"] is not None and r["status"] in ("stored", DUPLICATE)), None)
        if held is None:
            return rows[0]["status"], rows[0]["reason"]
        verdict = self.verdicts.get(held["image_id"])
        if verdict is None:
            return "not seen", ""
        return ("kept", "") if verdict["keep"] else ("dropped", verdict["reason"])


def score(truth: Sequence[Row], outcome: Outcome) -> list[Score]:
    """Every score that ``truth`` allows, in the order of the stages."""
    kinds: dict[str, list[Row]] = defaultdict(list)
    for row in truth:
        kinds[row["kind"]].append(row)
    scores = [_seen(truth, outcome)]
    scores += [_refused(kind, kinds, outcome) for kind in REFUSED if kinds[kind]]
    asked: list[tuple[str, Callable[[Sequence[Row], Outcome, Sequence[Row]], Score]]] = [
        ("exact", _exact),
        ("odd", _odd),
        ("nsfw", _unsafe),
        ("face", _faces),
    ]
    scores += [function(kinds[kind], outcome, truth) for kind, function in asked if kinds[kind]]
    sizes = sorted({row["size"] for row in kinds["copy"]}, reverse=True)
    for size in [*sizes, "all"] if len(sizes) > 1 else sizes:
        copies = [row for row in kinds["copy"] if size in (row["size"], "all")]
        if copies:
            scores.append(_copies(copies, size, [r for r in truth if r["kind"] in ORDINARY], outcome))
    scores += [_leaks(kinds["leak"], outcome)] if kinds["leak"] else []
    scores += [_junk(kinds["junk"], outcome)] if kinds["junk"] else []
    return scores


def score_store(store: Store, truth: Sequence[Row]) -> list[Score]:
    """:func:`score` over the tables that a data root holds; a stage that has not run counts as empty."""

    def read(stage: str, table: str) -> pa.Table:
        found = [manifest.read(store, stage, p) for p in manifest.partitions(store, stage)]
        parts = [store.read_table(record.path) for m in found if m for record in m.table(table)]
        return pa.concat_tables([tables.SCHEMAS[table].empty_table(), *parts])

    pairs = (
        ("raw_crawl", "images"),
        ("filtered_set", "verdicts"),
        ("deduplicated_set", "components"),
        ("curated_lvd", "packed"),
    )
    return score(truth, Outcome.of(*(read(stage, table) for stage, table in pairs)))


def _seen(truth: Sequence[Row], outcome: Outcome) -> Score:
    lost = [row["url"] for row in truth if row["url"] not in outcome.references]
    note = f"without a row: {_some(lost)}" if lost else "each has a row with its fate"
    return Score("raw_crawl", "references accounted for", len(truth), len(truth) - len(lost), note=note)


def _refused(kind: str, kinds: Mapping[str, Sequence[Row]], outcome: Outcome) -> Score:
    fates = [outcome.fate(row["url"]) for row in kinds[kind]]
    # What must never be asked for is no better refused after it was fetched.
    enough = ("refused",) if kind == "restricted" else ("refused", "failed", "dropped")
    right = [reason for status, reason in fates if status in enough and reason]
    reasons = Counter(right)
    good = [row for other, rows in kinds.items() if other not in REFUSED for row in rows]
    others = [outcome.fate(row["url"]) for row in good]
    wrong = sum(status in ("refused", "failed") and reason in reasons for status, reason in others)
    parts = tuple(Part(reason, count, count) for reason, count in sorted(reasons.items()))
    through = [row["url"] for row, (status, reason) in zip(kinds[kind], fates, strict=True) if status not in enough]
    many = "1 reason" if len(reasons) == 1 else f"{len(reasons)} reasons"
    note = f"not refused: {_some(through)}" if through else f"for {many}, in the table"
    what = {"restricted": "restricted, refused unfetched", "broken": "broken or hostile, refused"}[kind]
    return Score("raw_crawl", what, len(fates), len(right), _share(len(right), wrong), note, parts)


def _exact(rows: Sequence[Row], outcome: Outcome, truth: Sequence[Row]) -> Score:
    stored = Counter(r["image_id"] for found in outcome.references.values() for r in found if r["status"] == "stored")
    ids = Counter(row["image_id"] for row in truth)
    found = sum(
        any(r["image_id"] == row["origin_id"] for r in outcome.references.get(row["url"], ()))
        and stored[row["origin_id"]] == 1
        for row in rows
    )
    claimed = [row for row in truth if any(r["reason"] == "same bytes" for r in outcome.references.get(row["url"], ()))]
    wrong = sum(ids[row["image_id"]] < 2 for row in claimed)
    return Score("raw_crawl", "exact duplicates, stored once", len(rows), found, _share(len(claimed) - wrong, wrong))


def _odd(rows: Sequence[Row], outcome: Outcome, truth: Sequence[Row]) -> Score:
    fates = {row["transformation"] or row["url"]: outcome.fate(row["url"]) for row in rows}
    lost = [f"{name} ({reason or status})" for name, (status, reason) in fates.items() if status != "kept"]
    note = f"lost: {_some(lost)}" if lost else ", ".join(sorted(fates))
    return Score("filtered_set", "odd but good, kept", len(rows), len(rows) - len(lost), note=note)


def _unsafe(rows: Sequence[Row], outcome: Outcome, truth: Sequence[Row]) -> Score:
    planted = {row["image_id"] for row in rows}
    claimed = {name for name, verdict in outcome.verdicts.items() if verdict["reason"] == "unsafe"}
    right = len(planted & claimed)
    note = f"{len(claimed) - right} others called unsafe"
    return Score("filtered_set", "unsafe, dropped", len(planted), right, _share(right, len(claimed) - right), note)


def _faces(rows: Sequence[Row], outcome: Outcome, truth: Sequence[Row]) -> Score:
    planted = {row["image_id"] for row in rows}
    right = len(planted & outcome.faces.keys())
    others = len(outcome.faces) - right
    # Photographs of the pool show faces of their own, so what else was found says nothing about precision.
    note = f"{sum(outcome.faces[i] for i in planted & outcome.faces.keys())} faces in them; {others} other images"
    return Score("filtered_set", "images with faces, blurred", len(planted), right, note=note)


def _copies(copies: Sequence[Row], size: str, ordinary: Sequence[Row], outcome: Outcome) -> Score:
    groups = {row["image_id"]: outcome.group(row["image_id"]) for row in ordinary}
    by_kind: dict[str, list[bool]] = defaultdict(list)
    earlier = 0
    for row in copies:
        own, origin = groups.get(row["image_id"]), groups.get(row["origin_id"])
        if own is None or origin is None:
            earlier += 1
        else:
            by_kind[row["transformation"]].append(own == origin)
    parts = tuple(Part(name, len(hits), sum(hits)) for name, hits in sorted(by_kind.items()))
    right, wrong = _joined_pairs(ordinary, groups, size)
    weakest = sorted((p for p in parts if p.found < p.planted), key=lambda p: (p.found / p.planted, p.name))[:3]
    notes = [f"weakest: {', '.join(f'{p.name} {p.found}/{p.planted}' for p in weakest)}"] if weakest else []
    notes += [f"{wrong} unplanted pairs joined"] if wrong else []
    notes += [f"{earlier} pairs dropped earlier"] if earlier else []
    return Score(
        "deduplicated_set",
        f"near-copies, {size}",
        sum(p.planted for p in parts),
        sum(p.found for p in parts),
        _share(right, wrong),
        "; ".join(notes),
        parts,
    )


def _joined_pairs(rows: Sequence[Row], groups: Mapping[str, str | None], size: str) -> tuple[int, int]:
    """``(planted, unplanted)`` pairs within groups; a pair of a small and a large picture counts as small."""
    families: dict[str, dict[str, tuple[str, str]]] = defaultdict(dict)
    for row in rows:
        group = groups[row["image_id"]]
        if group is not None:
            families[group][row["image_id"]] = (row["origin_id"] or row["image_id"], row["size"])
    right = wrong = 0
    for members in families.values():
        large = [m for m in members.values() if m[1] == "large"]
        small = [m for m in members.values() if m[1] != "large"]
        chosen = {"large": large, "small": small, "all": small + large}[size]
        together = sum(_pairs(n) for n in Counter(family for family, _ in chosen).values())
        mixed = len(large) * len(small) if size == "small" else 0
        right += together
        wrong += _pairs(len(chosen)) - together + mixed
    return right, wrong


def _pairs(count: int) -> int:
    return count * (count - 1) // 2


def _leaks(rows: Sequence[Row], outcome: Outcome) -> Score:
    by_kind: dict[str, list[bool]] = defaultdict(list)
    reached = {row["image_id"]: row["transformation"] for row in rows if row["image_id"] in outcome.components}
    dropped = {name for name, row in outcome.components.items() if row["reason"].startswith("leak of")}
    for name, kind in reached.items():
        by_kind[kind].append(name in dropped)
    parts = tuple(Part(name, len(hits), sum(hits)) for name, hits in sorted(by_kind.items()))
    planted = {row["image_id"] for row in rows}
    others, trained_on = len(dropped - planted), len(planted & outcome.selected)
    found = len(dropped & planted)
    notes = [f"{others} unplanted images dropped (alike by nature, or mistaken)", f"{trained_on} in the training set"]
    notes += [f"{len(planted) - len(reached)} dropped earlier"] if len(reached) < len(planted) else []
    precision = _share(found, others)
    return Score("deduplicated_set", "benchmark leaks", len(reached), found, precision, "; ".join(notes), parts)


def _junk(rows: Sequence[Row], outcome: Outcome) -> Score:
    planted = {row["image_id"] for row in rows} & outcome.verdicts.keys()
    chosen = len(planted & outcome.selected)
    raw, curated = len(planted) / max(outcome.stored, 1), chosen / max(len(outcome.selected), 1)
    note = f"{100 * raw:.1f} % of what was stored, {100 * curated:.1f} % of what was drawn from the pool"
    return Score("curated_lvd", "junk, left out", len(planted), len(planted) - chosen, note=note)


def _share(right: int, wrong: int) -> float | None:
    return right / (right + wrong) if right + wrong else None


def _some(names: Iterable[str], most: int = 3) -> str:
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more
