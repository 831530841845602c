"""Marks against planted truth: small worlds whose right answers are counted by hand."""

from __future__ import annotations

from typing import Any

import pytest

from dinov2_core import tables
from dinov2_core.evaluate.planted import Outcome, Part, Score, score, score_store
from dinov2_core.manifest import Manifest, write
from dinov2_core.storage import Store

Rows = list[dict[str, Any]]


def outcome(images: Rows = [], verdicts: Rows = [], components: Rows = [], packed: Rows = []) -> Outcome:  # noqa: B006
    named = (("images", images), ("verdicts", verdicts), ("components", components), ("packed", packed))
    return Outcome.of(*(tables.from_rows(rows, tables.SCHEMAS[name]) for name, rows in named))


def truth(name: str, kind: str, **about: Any) -> dict[str, Any]:
    blank = {"size": "small", "origin_id": None, "transformation": None}
    return {"url": f"http://x/{name}", "image_id": name, "kind": kind, **blank, **about}


def stored(name: str, status: str = "stored", reason: str = "", image_id: str | None = "") -> dict[str, Any]:
    return {
        "url": f"http://x/{name}",
        "image_id": name if image_id == "" else image_id,
        "status": status,
        "reason": reason,
    }


def kept(name: str, **about: Any) -> dict[str, Any]:
    return {"image_id": name, "keep": True, "reason": "", **about}


def gone(name: str, reason: str, **about: Any) -> dict[str, Any]:
    return {"image_id": name, "keep": False, "reason": reason, **about}


def component(name: str, of: str, reason: str = "") -> dict[str, Any]:
    return {"image_id": name, "component": of, "keep": not reason, "reason": reason}


def only(scores: list[Score], what: str) -> Score:
    found = [s for s in scores if s.what.startswith(what)]
    assert len(found) == 1, [s.what for s in scores]
    return found[0]


def test_a_reference_without_a_row_is_lost() -> None:
    found = only(score([truth("a", "cifar"), truth("b", "cifar")], outcome([stored("a")])), "references")
    assert (found.planted, found.found, found.recall) == (2, 1, 0.5)
    assert "http://x/b" in found.note


def test_restricted_must_be_refused_by_the_crawl_and_with_a_reason() -> None:
    rows = [truth(n, "restricted") for n in "abcd"] + [truth("good", "cifar")]
    seen = outcome(
        [
            stored("a", "refused", "blocked domain", None),
            stored("b", "refused", "", None),  # no reason given
            stored("c"),  # fetched, and only dropped by the filter
            stored("d", "failed", "timeout", None),
            stored("good", "refused", "blocked domain", None),  # swept up by the same rule
        ],
        [gone("c", "too small")],
    )
    found = only(score(rows, seen), "restricted")
    assert found.recall == 0.25
    assert found.precision == 0.5
    assert found.parts == (Part("blocked domain", 1, 1),)


def test_broken_may_fall_at_either_gate() -> None:
    rows = [truth(n, "broken") for n in "abc"]
    seen = outcome(
        [stored("a", "failed", "http 404", None), stored("b"), stored("c")], [gone("b", "truncated"), kept("c")]
    )
    found = only(score(rows, seen), "broken")
    assert (found.planted, found.found) == (3, 2)
    assert "http://x/c" in found.note
    assert {p.name for p in found.parts} == {"http 404", "truncated"}


def test_exact_copies_are_one_stored_image() -> None:
    rows = [truth("a", "cifar"), truth("b", "cifar")]
    rows += [
        {**truth("a2", "exact", origin_id="a"), "image_id": "a"},
        {**truth("b2", "exact", origin_id="b"), "image_id": "b"},
    ]
    seen = outcome(
        [
            stored("a", "duplicate", "same bytes"),  # the copy came first
            stored("a2", image_id="a"),
            stored("b"),
            stored("b2", image_id="b"),  # stored twice
        ]
    )
    found = only(score(rows, seen), "exact")
    assert (found.planted, found.found, found.precision) == (2, 1, 1.0)


def test_odd_but_good_formats_are_kept() -> None:
    rows = [truth("a", "odd", transformation="cmyk"), truth("b", "odd", transformation="alpha")]
    seen = outcome([stored("a"), stored("b")], [kept("a"), gone("b", "too flat")])
    found = only(score(rows, seen), "odd")
    assert found.recall == 0.5
    assert found.note == "lost: alpha (too flat)"


def test_unsafe_and_faces() -> None:
    box = {"x": 0, "y": 0, "w": 4, "h": 4, "score": 0.9}
    rows = [truth("n1", "nsfw"), truth("n2", "nsfw"), truth("f1", "face"), truth("f2", "face")]
    seen = outcome(
        [],
        [
            gone("n1", "unsafe"),
            kept("n2"),
            gone("beach", "unsafe"),
            kept("f1", faces=[box, box]),
            kept("f2", faces=[]),
            kept("street", faces=[box]),
        ],
    )
    unsafe, faces = only(score(rows, seen), "unsafe"), only(score(rows, seen), "images with faces")
    assert (unsafe.recall, unsafe.precision) == (0.5, 0.5)
    assert (faces.recall, faces.precision) == (0.5, None)
    assert faces.note == "2 faces in them; 1 other images"


def test_near_copies_by_kind_and_size() -> None:
    rows = [truth(n, "cifar") for n in ("a", "b", "c", "d")] + [truth("p", "photo", size="large")]
    rows += [
        truth("a'", "copy", origin_id="a", transformation="crop"),
        truth("b'", "copy", origin_id="b", transformation="crop"),
        truth("c'", "copy", origin_id="c", transformation="jpeg"),
        truth("p'", "copy", origin_id="p", transformation="flip", size="large"),
    ]
    seen = outcome(
        [],
        [*(kept(n) for n in ("a", "b", "c", "d", "p", "a'", "b'", "p'")), gone("c'", "duplicate", duplicate_of="c")],
        [
            component("a", "A"),
            component("a'", "A", "copy of a"),
            component("d", "A", "copy of a"),  # wrongly joined: makes two wrong pairs
            component("b", "B"),
            component("b'", "B2"),  # missed
            component("c", "C"),  # c' fell at the filter, as a duplicate of c
            component("p", "P"),
            component("p'", "P", "copy of p"),
        ],
    )
    small, large = only(score(rows, seen), "near-copies, small"), only(score(rows, seen), "near-copies, large")
    assert (small.planted, small.found) == (3, 2)
    assert small.parts == (Part("crop", 2, 1), Part("jpeg", 1, 1))
    assert small.precision == pytest.approx(2 / 4)
    assert small.note == "weakest: crop 1/2; 2 unplanted pairs joined"
    assert (large.recall, large.precision) == (1.0, 1.0)


def test_two_copies_of_one_image_are_no_error_and_mixed_sizes_are_one_on_the_small_side() -> None:
    rows = [truth("a", "cifar"), truth("p", "photo", size="large")]
    rows += [truth(n, "copy", origin_id="a", transformation="blur") for n in ("a1", "a2")]
    rows += [truth("p1", "copy", origin_id="p", transformation="blur", size="large")]
    names = ("a", "a1", "a2", "p", "p1")
    seen = outcome([], [kept(n) for n in names], [component(n, "one") for n in names])
    small, large = only(score(rows, seen), "near-copies, small"), only(score(rows, seen), "near-copies, large")
    assert small.precision == pytest.approx(3 / (3 + 3 * 2))
    assert large.precision == 1.0


def test_copies_that_never_reached_deduplication_are_told_apart() -> None:
    rows = [truth("a", "cifar"), truth("a'", "copy", origin_id="a", transformation="blur")]
    seen = outcome([], [kept("a"), gone("a'", "too flat")], [component("a", "a")])
    found = only(score(rows, seen), "near-copies")
    assert (found.planted, found.recall, found.note) == (0, None, "1 pairs dropped earlier")


def test_leaks_and_what_went_beside_them() -> None:
    rows = [truth(n, "leak", transformation="jpeg") for n in ("l1", "l2", "l3")]
    seen = outcome(
        [],
        [kept("l1"), kept("l2"), gone("l3", "too flat"), kept("twin")],
        [component("l1", "l1", "leak of cifar10"), component("l2", "l2"), component("twin", "twin", "leak of cifar10")],
        [{"image_id": "l2", "source": "cifar10, sample"}],
    )
    found = only(score(rows, seen), "benchmark leaks")
    assert (found.planted, found.found, found.precision) == (2, 1, 0.5)
    assert found.note.startswith("1 unplanted images dropped")
    assert "1 in the training set" in found.note
    assert "1 dropped earlier" in found.note


def test_junk_before_and_after() -> None:
    rows = [truth(n, "junk") for n in ("j1", "j2")]
    names = ("j1", "j2", "a", "b")
    seen = outcome(
        [stored(n) for n in names],
        [kept(n) for n in names],
        [component(n, n) for n in names],
        [{"image_id": n, "source": "s"} for n in ("j1", "a", "b", "a seed that is not of the pool")],
    )
    found = only(score(rows, seen), "junk")
    assert (found.planted, found.found) == (2, 1)
    assert found.note == "50.0 % of what was stored, 33.3 % of what was drawn from the pool"


def test_nothing_planted_gives_no_marks_but_the_empty_one() -> None:
    assert [s.recall for s in score([], outcome())] == [None]


def test_a_data_root_is_read_over_all_its_batches(store: Store) -> None:
    for batch, name in (("b1", "a"), ("b2", "b")):
        record = store.write_table(
            f"raw_crawl/{batch}/images-x-00000.parquet", tables.from_rows([stored(name)], tables.IMAGES)
        )
        write(store, Manifest("raw_crawl", batch, "f", {}, {}, (record,)))
    scores = score_store(store, [truth("a", "cifar"), truth("b", "cifar")])
    assert only(scores, "references").recall == 1.0
