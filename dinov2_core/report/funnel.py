"""The funnel: how many images each step saw, how many it let through, and why the others went.

Computed from the tables themselves, not from what the stages say they did.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc


@dataclass(frozen=True)
class Step:
    """One step: ``name`` is the count's own name, ``drops`` are ``(reason, count)`` from the most to the fewest."""

    name: str
    stage: str
    label: str
    count: int
    drops: tuple[tuple[str, int], ...] = ()


def funnel(images: pa.Table, verdicts: pa.Table, components: pa.Table, packed: pa.Table) -> list[Step]:
    """From references on web pages to training images; each step's drops say what the step before lost on the way."""
    status = images["status"]
    stored = _count(pc.equal(status, "stored"))
    lost = images.filter(pc.not_equal(status, "stored"))
    passed = verdicts.filter(verdicts["keep"])
    unique = pc.count_distinct(passed["image_id"]).as_py() if len(passed) else 0
    remaining = components.filter(components["keep"])
    drawn = _count(pc.is_in(remaining["image_id"], value_set=packed["image_id"].combine_chunks()))
    return [
        Step("references", "raw_crawl", "image references found", len(images)),
        Step("stored", "raw_crawl", "images stored", stored, _reasons(lost["reason"])),
        Step(
            "kept",
            "filtered_set",
            "safe and usable",
            len(passed),
            _reasons(verdicts.filter(pc.invert(verdicts["keep"]))["reason"]),
        ),
        Step(
            "deduplicated",
            "deduplicated_set",
            "unique, and in no benchmark",
            len(remaining),
            _reasons(
                components.filter(pc.invert(components["keep"]))["reason"],
                also=("in an earlier batch", len(passed) - unique),
            ),
        ),
        Step(
            "drawn",
            "curated_lvd",
            "drawn around the seeds",
            drawn,
            _reasons(pa.chunked_array([[]], pa.string()), also=("not drawn by any seed", len(remaining) - drawn)),
        ),
    ]


def _count(mask: pa.ChunkedArray) -> int:
    return int(pc.sum(mask).as_py() or 0)


def _reasons(column: pa.ChunkedArray, also: tuple[str, int] = ("", 0)) -> tuple[tuple[str, int], ...]:
    counts: dict[str, int] = {also[0]: also[1]} if also[1] else {}
    # A copy's reason names the image that stays; counted, they are one reason.
    for value in pc.value_counts(pc.replace_substring_regex(column, r"^copy of .*", "copy of another")).to_pylist():
        counts[value["values"] or "no reason given"] = value["counts"]
    return tuple(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
