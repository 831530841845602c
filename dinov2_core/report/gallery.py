"""Which images a page shows, with what said below them.

Image ids are hashes of bytes, so that the first ids in order are as good as a random sample, and the same one every
time. Unsafe images are veiled, and so are those that no safety model has seen. How the page looks does not belong
here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dinov2_core.curation.neighbours import NeighbourSearch
from dinov2_core.report.thumbnails import Thumbnail, Thumbnails
from dinov2_core.tables import LOCATION

LOCATED = ["image_id", *(name for name, _ in LOCATION)]
UNSAFE = "unsafe"


@dataclass(frozen=True)
class Picture:
    """A thumbnail with its ``caption``; ``url`` and ``alt`` are what the web said, and hostile."""

    thumbnail: Thumbnail
    caption: str = ""
    url: str = ""
    alt: str = ""
    veiled: bool = False


@dataclass(frozen=True)
class Group:
    """Images that went for one reason: ``count`` of them, some shown."""

    reason: str
    count: int
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Pair:
    """Two images that were taken for one: ``left`` stays (or is the benchmark's), ``right`` goes."""

    left: Picture
    right: Picture
    similarity: float | None
    alignment: float | None = None


@dataclass(frozen=True)
class Neighbours:
    """A seed and the pool's images nearest to it, nearest first."""

    seed: Picture
    found: tuple[Picture, ...]


@dataclass
class Gallery:
    """Chooses from the tables; ``origins`` maps image id to (url, alt)."""

    thumbnails: Thumbnails
    origins: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    def picture(self, row: Mapping[str, Any], caption: str = "", *, veiled: bool = False) -> Picture:
        """The image of a located row."""
        url, alt = self.origins.get(row["image_id"], ("", ""))
        host = caption or urlsplit(url).hostname or ""
        return Picture(self.thumbnails.of(row, veiled=veiled), host, url, alt, veiled)

    def sample(self, table: pa.Table, count: int, caption: str = "") -> tuple[Picture, ...]:
        """``count`` images of a located table; ``caption`` names the column to be written below each."""
        rows = _first(table, count).to_pylist()
        return tuple(self.picture(row, str(row[caption]) if caption else "") for row in rows)

    def dropped(self, verdicts: pa.Table, count: int) -> list[Group]:
        """A group a reason of the filter, from the most frequent; near-exact duplicates are shown as pairs instead."""
        lost = verdicts.filter(pc.and_(pc.invert(verdicts["keep"]), pc.not_equal(verdicts["reason"], "duplicate")))
        screened = verdicts["nsfw"].null_count < len(verdicts)
        groups = []
        for reason, number in _tally(lost["reason"]):
            rows = _first(lost.filter(pc.equal(lost["reason"], reason)), count).to_pylist()
            veils = [row["reason"] == UNSAFE or (screened and row["nsfw"] is None) for row in rows]
            shown = [self.picture(row, _measured(row), veiled=veil) for row, veil in zip(rows, veils, strict=True)]
            groups.append(Group(reason, number, tuple(shown)))
        return groups

    def duplicates(self, verdicts: pa.Table, count: int) -> list[Pair]:
        """Near-exact duplicates: the image that stays and the one that goes."""
        gone = _first(verdicts.filter(pc.equal(verdicts["reason"], "duplicate")), count).to_pylist()
        wanted = pa.array([row["duplicate_of"] for row in gone], pa.string())
        found = verdicts.filter(pc.is_in(verdicts["image_id"], value_set=wanted)).select(LOCATED)
        stays = {row["image_id"]: row for row in found.to_pylist()}
        return [
            Pair(self.picture(stays[row["duplicate_of"]]), self.picture(row), None)
            for row in gone
            if row["duplicate_of"] in stays
        ]

    def copies(self, components: pa.Table, edges: pa.Table, count: int) -> list[Pair]:
        """Pairs of one component, one of which stays: spread evenly from the surest to the least sure."""
        rows = {r["image_id"]: r for r in components.filter(pc.greater(components["size"], 1)).to_pylist()}
        pairs = []
        for edge in edges.to_pylist():
            a, b = rows.get(edge["a"]), rows.get(edge["b"])
            if a and b and a["component"] == b["component"] and a["keep"] != b["keep"]:
                stays, goes = (a, b) if a["keep"] else (b, a)
                pairs.append((edge["similarity"], stays["image_id"], goes["image_id"], edge["alignment"]))
        return [
            Pair(self.picture(rows[stays]), self.picture(rows[goes]), similarity, alignment)
            for similarity, stays, goes, alignment in spread(sorted(pairs, key=lambda p: (-p[0], *p[1:3])), count)
        ]

    def leaks(self, components: pa.Table, edges: pa.Table, references: pa.Table, count: int) -> list[Pair]:
        """Images dropped for a benchmark's, beside it: spread evenly from the surest to the least sure."""
        lost = components.filter(pc.starts_with(components["reason"], "leak of"))
        rows = {r["image_id"]: r for r in lost.to_pylist()}
        best: dict[str, dict[str, Any]] = {}
        for edge in edges.filter(pc.is_in(edges["image_id"], value_set=pa.array(list(rows), pa.string()))).to_pylist():
            known = best.setdefault(edge["image_id"], edge)
            if edge["similarity"] > known["similarity"]:
                best[edge["image_id"]] = edge
        order = sorted(best.values(), key=lambda e: (-e["similarity"], e["image_id"]))
        chosen = spread(order, count)
        wanted = pa.array([edge["benchmark_id"] for edge in chosen], pa.string())
        named = references.filter(pc.is_in(references["image_id"], value_set=wanted)).to_pylist()
        known_rows = {row["image_id"]: row for row in reversed(named)}
        return [self._leak(edge, known_rows[edge["benchmark_id"]], rows[edge["image_id"]]) for edge in chosen]

    def _leak(self, edge: Mapping[str, Any], reference: Mapping[str, Any], row: Mapping[str, Any]) -> Pair:
        left = self.picture(reference, f"{edge['benchmark']}, {reference['split']}")
        return Pair(left, self.picture(row), edge["similarity"], edge["alignment"])

    def neighbours(
        self,
        seeds: pa.Table,
        seed_vectors: tuple[np.ndarray, np.ndarray],
        pool: pa.Table,
        pool_vectors: tuple[np.ndarray, np.ndarray],
        count: int,
        k: int,
    ) -> list[Neighbours]:
        """``count`` seeds, in turn from each label, with their ``k`` nearest images of ``pool`` by cosine.

        Vectors are ``(ids [N], float32 [N, D] of unit length)``.
        """
        located = {row["image_id"]: row for row in pool.select(LOCATED).to_pylist()}
        inside = np.array([name in located for name in pool_vectors[0].tolist()], dtype=bool)
        ids, matrix = pool_vectors[0][inside], pool_vectors[1][inside]
        place = {name: i for i, name in enumerate(seed_vectors[0].tolist())}
        chosen = [row for row in in_turn(seeds.to_pylist(), "label") if row["image_id"] in place][:count]
        if not chosen or not len(ids):
            return []
        queries = seed_vectors[1][[place[row["image_id"]] for row in chosen]]
        found = NeighbourSearch(matrix).top(queries, k)
        rows: dict[int, list[Picture]] = defaultdict(list)
        for query, index, similarity in zip(
            found.query.tolist(), found.pool.tolist(), found.similarity.tolist(), strict=True
        ):
            rows[query].append(self.picture(located[ids[index]], f"{similarity:.2f}"))
        return [
            Neighbours(self.picture(row, row["label"] or row["dataset"]), tuple(rows[i]))
            for i, row in enumerate(chosen)
        ]


def spread(items: Sequence[Any], count: int) -> list[Any]:
    """At most ``count`` items at even distances, first and last among them."""
    if len(items) <= count:
        return list(items)
    if count < 2:
        return list(items[:count])
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


def in_turn(rows: Sequence[dict[str, Any]], key: str) -> list[dict[str, Any]]:
    """All rows, one of each value of ``key`` after the other, in order of image id."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in sorted(rows, key=lambda r: r["image_id"]):
        groups[row[key] or ""].append(row)
    rounds = max((len(group) for group in groups.values()), default=0)
    return [groups[name][i] for i in range(rounds) for name in sorted(groups) if i < len(groups[name])]


def _first(table: pa.Table, count: int) -> pa.Table:
    return table.sort_by("image_id").slice(0, count)


def _tally(column: pa.ChunkedArray) -> list[tuple[str, int]]:
    counts = [(row["values"], row["counts"]) for row in pc.value_counts(column).to_pylist()]
    return sorted(counts, key=lambda item: (-item[1], item[0]))


def _measured(row: Mapping[str, Any]) -> str:
    """The score that stands behind a verdict of the filter."""
    if row["reason"] == UNSAFE and row["nsfw"] is not None:
        return f"score {row['nsfw']:.2f}"
    return f"{row['width']} × {row['height']}" if row["width"] else ""
