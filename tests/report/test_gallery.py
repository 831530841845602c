"""What a page shows: which images, in which order, under which veil."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dinov2_core import tables
from dinov2_core.images.shards import ShardWriter
from dinov2_core.report.gallery import Gallery, in_turn, spread
from dinov2_core.report.thumbnails import SIDE, Thumbnails
from dinov2_core.storage import Store


class Pool:
    """Stored images by a short name; a row gets the location of its image."""

    def __init__(self, store: Store, names: str) -> None:
        rng = np.random.default_rng(0)
        with ShardWriter(store, "pool") as writer:
            for name in names:
                out = io.BytesIO()
                Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(out, "PNG")
                writer.add(out.getvalue(), "png", identity=name)
        self.places = writer.locations
        self.gallery = Gallery(Thumbnails(store), {n: (f"http://{n}.example/", f"alt {n}") for n in names})

    def table(self, name: str, rows: list[dict[str, Any]]) -> Any:
        return tables.from_rows([{**self.places[r["image_id"]], **r} for r in rows], tables.SCHEMAS[name])


@pytest.fixture
def pool(store: Store) -> Pool:
    return Pool(store, "abcdefgh")


def test_samples_are_fixed_and_captioned_by_a_column_or_the_host(pool: Pool) -> None:
    table = pool.table("packed", [{"image_id": i, "source": f"seed {i}"} for i in "dbca"])
    assert [p.caption for p in pool.gallery.sample(table, 3, "source")] == ["seed a", "seed b", "seed c"]
    assert [p.caption for p in pool.gallery.sample(table, 1)] == ["a.example"]
    assert pool.gallery.sample(table, 1)[0].alt == "alt a"


def dropped(image: str, reason: str, nsfw: float | None, **about: Any) -> dict[str, Any]:
    return {"image_id": image, "keep": False, "reason": reason, "nsfw": nsfw, **about}


def test_unsafe_and_unscreened_images_are_veiled(pool: Pool) -> None:
    verdicts = pool.table(
        "verdicts",
        [
            dropped("a", "too flat", None, width=64, height=64),
            dropped("b", "too flat", None, width=64, height=64),
            dropped("c", "unsafe", 0.97, width=64, height=64),
            dropped("d", "duplicate", 0.1, duplicate_of="e"),
            {"image_id": "e", "keep": True, "reason": "", "nsfw": 0.1},
        ],
    )
    groups = pool.gallery.dropped(verdicts, 1)
    assert [(g.reason, g.count, len(g.pictures)) for g in groups] == [("too flat", 2, 1), ("unsafe", 1, 1)]
    assert all(p.veiled for g in groups for p in g.pictures)
    assert [p.caption for g in groups for p in g.pictures] == ["64 × 64", "score 0.97"]
    assert all(max(p.thumbnail.width, p.thumbnail.height) == SIDE for g in groups for p in g.pictures)


def test_without_any_screening_only_the_unsafe_are_veiled(pool: Pool) -> None:
    verdicts = pool.table("verdicts", [dropped("a", "too flat", None), dropped("b", "unsafe", None)])
    assert {g.reason: g.pictures[0].veiled for g in pool.gallery.dropped(verdicts, 3)} == {
        "too flat": False,
        "unsafe": True,
    }


def test_near_exact_duplicates_stand_beside_what_stays(pool: Pool) -> None:
    rows = [dropped("a", "duplicate", 0.1, duplicate_of="b"), {"image_id": "b", "keep": True, "reason": ""}]
    (pair,) = pool.gallery.duplicates(pool.table("verdicts", rows), 5)
    assert (pair.left.url, pair.right.url) == ("http://b.example/", "http://a.example/")
    assert pair.similarity is None


def component(image: str, of: str, size: int, reason: str = "") -> dict[str, Any]:
    return {"image_id": image, "component": of, "size": size, "keep": not reason, "reason": reason}


def test_copies_are_edges_inside_a_component_between_what_stays_and_what_goes(pool: Pool) -> None:
    components = pool.table(
        "components",
        [
            component("a", "a", 3, "copy of b"),
            component("b", "a", 3),
            component("c", "a", 3, "copy of b"),
            component("d", "d", 1),
        ],
    )
    scores = {"ab": 0.9, "ac": 0.99, "bc": 0.7, "bd": 0.61}
    edges = tables.from_rows([{"a": k[0], "b": k[1], "similarity": s} for k, s in scores.items()], tables.EDGES)
    pairs = pool.gallery.copies(components, edges, 9)
    assert [(p.left.caption[0], p.right.caption[0], round(p.similarity or 0, 2)) for p in pairs] == [
        ("b", "a", 0.9),
        ("b", "c", 0.7),
    ]


def test_leaks_show_their_most_alike_benchmark_picture_on_the_left(pool: Pool) -> None:
    components = pool.table("components", [component("a", "a", 1, "leak of x"), component("b", "b", 1)])
    scores = (("a", "g", 0.6), ("a", "h", 0.8), ("b", "g", 0.5))
    edges = tables.from_rows(
        [{"image_id": i, "benchmark": "x", "benchmark_id": b, "similarity": s} for i, b, s in scores],
        tables.BENCHMARK_EDGES,
    )
    references = pool.table("labelled", [{"image_id": i, "dataset": "x", "split": "test"} for i in "gh"])
    (pair,) = pool.gallery.leaks(components, edges, references, 9)
    assert pair.left.caption == "x, test"
    assert pair.left.url == "http://h.example/"
    assert pair.right.url == "http://a.example/"
    assert pair.similarity == pytest.approx(0.8)


def test_neighbours_are_nearest_first_and_only_of_the_pool_that_stays(pool: Pool) -> None:
    angles = {"a": 0.0, "b": 0.3, "c": 0.1, "d": 0.05}

    def vectors(names: str) -> tuple[np.ndarray, np.ndarray]:
        turned = np.array([angles[n] for n in names])
        return np.array(list(names), object), np.stack([np.cos(turned), np.sin(turned)], 1).astype(np.float32)

    seeds = pool.table("labelled", [{"image_id": "a", "dataset": "s", "label": "cat"}])
    stays = pool.table("components", [component(i, i, 1) for i in "bc"])  # d is alike, but was dropped
    (row,) = pool.gallery.neighbours(seeds, vectors("a"), stays, vectors("bcd"), 4, 4)
    assert row.seed.caption == "cat"
    assert [p.url for p in row.found] == ["http://c.example/", "http://b.example/"]
    assert [p.caption for p in row.found] == [f"{np.cos(0.1):.2f}", f"{np.cos(0.3):.2f}"]


def test_spread_takes_both_ends() -> None:
    assert spread(range(10), 4) == [0, 3, 6, 9]
    assert spread(range(3), 4) == [0, 1, 2]
    assert spread(range(3), 1) == [0]
    assert spread([], 4) == []


def test_labels_take_turns() -> None:
    rows = [{"image_id": i, "label": label} for i, label in (("1", "a"), ("2", "a"), ("3", "b"), ("0", None))]
    assert [r["image_id"] for r in in_turn(rows, "label")] == ["0", "1", "3", "2"]
