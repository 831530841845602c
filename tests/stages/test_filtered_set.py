"""filtered_set: a verdict with a reason for every image, and the same files however the work was done."""

from __future__ import annotations

import io
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinov2_core import stage
from dinov2_core.curation import blur
from dinov2_core.images.shards import read_image
from dinov2_core.manifest import Manifest
from dinov2_core.shard_map import ProcessShardMap
from dinov2_core.stages import filtered_set, registry
from dinov2_core.storage import Store
from tests.pictures import crawled, encoded, field, part

SPEC = registry.get("filtered_set")
NO_MODELS = {"nsfw_model": "", "face_model": ""}


def rows(store: Store, made: Manifest) -> dict[str, dict[str, object]]:
    parts = [store.read_table(f.path).to_pylist() for f in made.table("verdicts")]
    return {row["image_id"]: row for part_rows in parts for row in part_rows}


def test_every_image_has_a_row_and_every_dropped_one_a_reason(store: Store) -> None:
    good = encoded(field(0))
    cases = {
        "": good,
        "truncated": encoded(field(1), "JPEG", quality=90)[:400],
        "html": b"<!doctype html><html><body>404</body></html>",
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        "empty": b"",
        "not an image": b"\x01\x02" * 40,
        "too small": encoded(field(2, 15, 40)),
        "too elongated": encoded(field(3, 20, 140)),
        "too little detail": encoded(np.full((64, 64, 3), 77, np.uint8)),
        "duplicate": encoded(field(0), "JPEG", quality=85),
    }
    ids = crawled(store, list(cases.values()))
    made = stage.materialise(store, SPEC, "b1", NO_MODELS).manifest
    found = rows(store, made)
    assert {reason: found[name]["reason"] for reason, name in zip(cases, ids, strict=True)} == {r: r for r in cases}
    assert made.counts["images"] == 10
    assert made.counts["kept"] == 1
    assert made.counts["dropped"] == {reason: 1 for reason in sorted(cases) if reason}
    assert found[ids[-1]]["duplicate_of"] == ids[0]


def test_the_largest_of_near_exact_copies_stays_and_copies_do_not_chain(store: Store) -> None:
    large = field(5, 96, 96)
    small = np.asarray(Image.fromarray(large).resize((48, 48), Image.Resampling.BOX))
    ids = crawled(store, [encoded(small), encoded(large), encoded(field(6))])
    found = rows(store, stage.materialise(store, SPEC, "b1", NO_MODELS).manifest)
    assert [found[i]["keep"] for i in ids] == [False, True, True]
    switched_off = stage.materialise(store, SPEC, "b1", {**NO_MODELS, "hash_distance": -1}).manifest
    assert switched_off.counts["kept"] == 3


def test_faces_are_blurred_in_the_bytes_that_later_stages_read(store: Store) -> None:
    with Image.open(part("solvay")) as picture:
        picture.thumbnail((640, 640))
        pixels = np.asarray(picture.convert("RGB"))
    ids = crawled(store, [encoded(pixels, "JPEG", quality=95), encoded(field(1))])
    made = stage.materialise(store, SPEC, "b1", {"nsfw_model": "", "face_model": str(part("centerface"))}).manifest
    found = rows(store, made)
    assert len(found[ids[0]]["faces"]) > 15
    assert str(found[ids[0]]["shard"]).startswith("filtered_set/b1/shard-")
    assert str(found[ids[1]]["shard"]).startswith("raw_crawl/b1/")
    written = np.asarray(Image.open(io.BytesIO(read_image(store, found[ids[0]]))))
    assert np.abs(written.astype(int) - pixels).mean() > 1
    assert blur.MARGIN == 0.1


def test_processes_and_an_interrupted_run_give_the_same_manifest(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [encoded(field(i)) for i in range(30)] + [b"", encoded(field(3), "JPEG", quality=90)]
    params = {**NO_MODELS, "images_per_task": 7}
    manifests = []
    for name in ("inline", "processes"):
        other = Store(f"{tmp_path}/{name}")
        crawled(other, images)
        shard_map = ProcessShardMap(2) if name == "processes" else None
        manifests.append(stage.materialise(other, SPEC, "b1", params, shard_map=shard_map).manifest)
    crawled(store, images)
    calls = []

    def dies(task: dict[str, object], work: object = filtered_set._screen) -> dict[str, object]:
        calls.append(task["key"])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return work(task)  # type: ignore[operator]

    monkeypatch.setattr(filtered_set, "_screen", dies)
    with pytest.raises(KeyboardInterrupt):
        stage.materialise(store, SPEC, "b1", params)
    manifests.append(stage.materialise(store, SPEC, "b1", params).manifest)
    assert len(calls) == 3 + 3, "two of five tasks were finished before the interruption"
    assert manifests[0] == manifests[1] == manifests[2]


def test_an_empty_batch_is_a_table_without_rows(store: Store) -> None:
    crawled(store, [])
    made = stage.materialise(store, SPEC, "b1", NO_MODELS).manifest
    assert made.counts["images"] == 0
    assert [f.rows for f in made.table("verdicts")] == [0]


def test_parameters_are_plain_and_come_back() -> None:
    params = SPEC.load_params({"quality": {"min_side": 99}})
    assert SPEC.load_params(asdict(params)) == params
    assert params.quality.min_side == 99
