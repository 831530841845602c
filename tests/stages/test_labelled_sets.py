"""Seed and evaluation sets: packed in order and findable; repeated, broken and missing images as each stage says."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dinov2_core import stage
from dinov2_core.curation import copy_detection, onnx_model
from dinov2_core.errors import ConfigError, UserError
from dinov2_core.images.shards import image_id, read_image
from dinov2_core.manifest import Manifest
from dinov2_core.stages import registry
from dinov2_core.storage import Store
from tests.images.test_sets import put, tar


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


class Embedder:
    """Stands in for the copy-detection model: a vector drawn from the picture's first pixel."""

    def __init__(self, model: str, *, side: int) -> None:
        assert (model, side) == ("sscd", 288)

    def __call__(self, images: Sequence[np.ndarray]) -> np.ndarray:
        vectors = [np.random.default_rng(list(i[0, 0])).normal(size=512) for i in images]
        return np.array([v / np.linalg.norm(v) for v in vectors], np.float32)


@pytest.fixture(autouse=True)
def _model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copy_detection, "CopyEmbedder", Embedder)
    monkeypatch.setattr(onnx_model, "checksum", lambda name: "0" * 64)


def make(store: Store, name: str, **params: Any) -> Manifest:
    return stage.materialise(store, registry.get(name), params=params).manifest


def rows(store: Store, made: Manifest, table: str = "labelled") -> list[dict[str, Any]]:
    return [row for f in made.table(table) for row in store.read_table(f.path).to_pylist()]


def test_seeds_are_packed_in_order_and_each_image_is_one_seed(store: Store) -> None:
    place = Path(store.base) / "in"
    put(place / "pets/cat/1.png", png(1))
    put(place / "pets/cat/2.png", png(2))
    put(place / "pets/dog/1.png", png(1))
    put(place / "pets/dog/3.png", b"\x89PNG\r\n\x1a\n")
    put(place / "art/x.png", png(1))
    sets = [
        {"name": "pets", "uri": "in/pets", "task": "classification"},
        {"name": "art", "uri": str(place / "art"), "labels": "none"},
    ]
    made = make(store, "seed_sets", sets=sets)
    found = rows(store, made)
    assert [(r["dataset"], r["split"], r["label"], r["key"]) for r in found] == [
        ("pets", "seeds", "cat", "cat/1.png"),
        ("pets", "seeds", "cat", "cat/2.png"),
        ("art", "seeds", None, "x.png"),
    ]
    for row in found:
        assert image_id(read_image(store, row)) == row["image_id"]
    assert made.counts == {
        "images": 3,
        "sets": {"art": 1, "pets": 2},
        "duplicates": 1,
        "duplicates_with_another_label": 1,
        "refused": 1,
        "refused_first": ["pets/dog/3.png: truncated"],
        "classes": 1,
        "classes_with_one_image": 0,
    }


def test_a_class_with_one_image_is_a_class(store: Store) -> None:
    put(Path(store.base) / "in/cat/1.png", png(1))
    made = make(store, "seed_sets", sets=[{"name": "one", "uri": "in"}])
    assert (made.counts["classes"], made.counts["classes_with_one_image"]) == (1, 1)


@pytest.mark.parametrize(
    ("name", "sets", "message"),
    [
        ("seed_sets", [], "there are no seed sets"),
        ("seed_sets", [{"name": "a", "uri": "gone"}], r"seed_sets: set 'a', split 'seeds', .*gone: nothing there"),
        ("seed_sets", [{"name": "a", "uri": "empty"}], "no image there"),
        ("seed_sets", [{"name": "a", "uri": "bad"}], "no image there decodes"),
        ("seed_sets", [{"name": "a", "uri": "good"}] * 2, "the name 'a' is used twice"),
        ("benchmark_sets", [], "there are no evaluation sets"),
        ("benchmark_sets", [{"name": "a", "splits": {"test": "gone"}}], "set 'a', split 'test'"),
        ("benchmark_sets", [{"name": "a", "splits": {"tset": "good"}}], r"no split 'test' \(did you mean 'tset'\?\)"),
    ],
)
def test_mistakes_in_the_settings_are_named(store: Store, name: str, sets: list[Any], message: str) -> None:
    put(Path(store.base) / "good/1.png", png(1))
    put(Path(store.base) / "bad/1.png", b"nothing")
    (Path(store.base) / "empty").mkdir()
    with pytest.raises((UserError, ConfigError), match=message):
        make(store, name, sets=sets)


def benchmark(store: Store) -> list[dict[str, Any]]:
    place = Path(store.base) / "in"
    tar(place / "train.tar", {"1.png": png(1), "1.cls": b"cat"})
    tar(place / "test.tar", {"1.png": png(2), "1.cls": b"cat", "2.png": png(3), "2.cls": b"dog", "3.png": png(2)})
    return [{"name": "toy", "splits": {"train": "in/train.tar", "test": "in/test.tar"}}]


def test_an_evaluation_set_keeps_every_image_and_embeds_its_reference_splits(store: Store) -> None:
    made = make(store, "benchmark_sets", sets=benchmark(store), images_per_task=1)
    found = rows(store, made)
    assert [(r["split"], r["label"], r["image_id"]) for r in found] == [
        ("train", "cat", image_id(png(1))),
        ("test", "cat", image_id(png(2))),
        ("test", "dog", image_id(png(3))),
        ("test", None, image_id(png(2))),
    ]
    embedded = {r["image_id"]: np.array(r["embedding"], np.float32) for r in rows(store, made, "copy_embeddings")}
    assert set(embedded) == {image_id(png(2)), image_id(png(3))}
    expected = Embedder("sscd", side=288)([np.array(Image.open(io.BytesIO(png(3))))])[0]
    assert np.allclose(embedded[image_id(png(3))], expected, atol=1e-3)
    assert (made.counts["repeated"], made.counts["references"]) == (1, 2)


def test_without_a_reference_split_the_table_is_there_and_empty(store: Store) -> None:
    made = make(store, "benchmark_sets", sets=[{**benchmark(store)[0], "reference": []}])
    assert rows(store, made, "copy_embeddings") == []
    assert len(made.table("copy_embeddings")) == 1


def test_a_broken_evaluation_image_is_never_dropped_silently(store: Store) -> None:
    put(Path(store.base) / "in/test/cat/1.png", png(1))
    put(Path(store.base) / "in/test/cat/2.jpg", b"\xff\xd8\xff" + bytes(99))
    with pytest.raises(UserError, match=r"split 'test', in/test: 1 images .* first 'cat/2.jpg' \(damaged\)"):
        make(store, "benchmark_sets", sets=[{"name": "toy", "splits": {"test": "in/test"}}])


def test_a_changed_file_makes_the_sets_stale(store: Store) -> None:
    sets = benchmark(store)
    first = make(store, "benchmark_sets", sets=sets)
    assert make(store, "benchmark_sets", sets=sets).hash == first.hash
    tar(Path(store.base) / "in/train.tar", {"1.png": png(9)})
    assert make(store, "benchmark_sets", sets=sets).hash != first.hash
