"""The crawl over the demo's small web, against the planted truth: what is good is stored, what is not says why."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from dinov2_core import stage
from dinov2_core.stages import registry
from dinov2_core.storage import Store
from pipelines.demo import web, world

ANSWERED = {"stored", "duplicate"}


@pytest.fixture(scope="module")
def crawled(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict], dict[str, list[dict]]]:
    """Rows of truth, and the crawl's rows by URL."""
    root = tmp_path_factory.mktemp("crawl")
    place = world.build(root / "world", world.TINY)
    store = Store(str(root))
    params = {
        "sources": "world/sources",
        "blocklists": ["world/blocklist.txt"],
        "hosts": {"*": "127.0.0.1:8942"},
        "politeness": {"per_host": 16, "per_host_rate": 100_000},
        "limits": {"retry_wait": 0.05},
    }
    found: dict[str, list[dict]] = {}
    with web.serve(place / "site.parquet", port=8942):
        for batch in world.BATCHES:
            made = stage.materialise(store, registry.get("raw_crawl"), batch, params).manifest
            for record in made.table("images"):
                for row in store.read_table(record.path).to_pylist():
                    found.setdefault(row["url"], []).append(row)
    return pq.read_table(Path(place) / "truth.parquet").to_pylist(), found


def test_every_good_picture_is_stored_under_its_own_bytes(crawled: tuple[list[dict], dict[str, list[dict]]]) -> None:
    truth, found = crawled
    good = [t for t in truth if t["kind"] not in ("broken", "restricted")]
    assert len(good) > 150
    for planted in good:
        for row in found[planted["url"]]:
            assert row["status"] in ANSWERED, (planted["url"], row["reason"])
            assert row["image_id"] == planted["image_id"]


def test_nothing_broken_or_restricted_gets_through(crawled: tuple[list[dict], dict[str, list[dict]]]) -> None:
    truth, found = crawled
    for planted in truth:
        if planted["kind"] in ("broken", "restricted"):
            # A cut JPEG has a good header; only decoding, which is the filter's work, finds it out.
            if planted["transformation"] == "truncated.jpg":
                continue
            for row in found[planted["url"]]:
                assert row["status"] in ("refused", "failed"), planted["url"]
                assert row["reason"]
                assert row["image_id"] is None
    assert {r["reason"] for t in truth if t["kind"] == "restricted" for r in found[t["url"]]} == {"blocked domain"}
