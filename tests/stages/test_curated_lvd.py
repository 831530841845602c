"""clusters and curated_lvd on made-up embeddings: who is drawn, what is counted, what is packed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from dinov2_core import manifest, stage, tables
from dinov2_core.curation import vectors
from dinov2_core.curation.copy_detection import CopyEmbedder
from dinov2_core.errors import UserError
from dinov2_core.images.shards import ShardWriter, image_id, read_image
from dinov2_core.manifest import Manifest
from dinov2_core.stages import registry
from dinov2_core.storage import Store
from tests.pictures import encoded, field, finished, part

SUBJECTS, EACH, SEEDS = 6, 30, 8
DIRECTIONS = np.linalg.qr(np.random.default_rng(0).normal(size=(16, 16)))[0]


def near(subject: int, count: int, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(count, 16)) * 0.05
    return vectors.unit((DIRECTIONS[subject] + noise).astype(np.float32))


def packed(store: Store, folder: str, images: Sequence[bytes]) -> tuple[list[str], ShardWriter]:
    with ShardWriter(store, folder) as writer:
        ids = [writer.add(data, "png") for data in images]
    return ids, writer


def evaluated(store: Store, ids: Sequence[str], matrix: np.ndarray | None = None, **params: object) -> None:
    """Evaluation sets that hold the images ``ids``; without ``matrix`` their embeddings are like nothing."""
    table = vectors.to_table(ids, np.zeros((len(ids), 512), np.float32) if matrix is None else matrix)
    record = store.write_table(f"benchmark_sets/all/copy_embeddings-{len(ids)}-0.parquet", table)
    finished(store, "benchmark_sets", manifest.WHOLE, [record], **{"model": "sscd_distilled", "side": 128, **params})


@pytest.fixture
def world(store: Store) -> tuple[Store, dict[str, int], list[str]]:
    """Six subjects of thirty pool pictures, seeds of the first two; returns each pool image's subject and the seeds."""
    ids, writer = packed(store, "raw_crawl/b1", [encoded(field(i)) for i in range(SUBJECTS * EACH)])
    subject = {name: i // EACH for i, name in enumerate(ids)}
    rows = [
        {"image_id": i, "component": i, "size": 1, "keep": n % 10 != 9, "reason": "", **writer.locations[i]}
        for n, i in enumerate(ids)
    ]
    folder = "deduplicated_set/all"
    record = store.write_table(f"{folder}/components-x-00000.parquet", tables.from_rows(rows, tables.COMPONENTS))
    finished(store, "deduplicated_set", manifest.WHOLE, [record])
    matrix = np.concatenate([near(s, EACH, s) for s in range(SUBJECTS)])
    record = store.write_table("embeddings/b1/embeddings-x-00000.parquet", vectors.to_table(ids, matrix))
    finished(store, "embeddings", "b1", [record])
    seeds, writer = packed(store, "seed_sets/all", [encoded(field(9000 + i)) for i in range(2 * SEEDS)])
    labels = [
        {"image_id": i, "dataset": "pets", "split": "train", "label": str(n // SEEDS), "key": i, **writer.locations[i]}
        for n, i in enumerate(seeds)
    ]
    record = store.write_table("seed_sets/all/labelled-x-00000.parquet", tables.from_rows(labels, tables.LABELLED))
    finished(store, "seed_sets", manifest.WHOLE, [*writer.files, record], sets=[{"name": "pets", "task": "cls"}])
    evaluated(store, [])
    matrix = np.concatenate([near(s, SEEDS, 100 + s) for s in (0, 1)])
    record = store.write_table("seed_embeddings/all/embeddings-x-00000.parquet", vectors.to_table(seeds, matrix))
    finished(store, "seed_embeddings", manifest.WHOLE, [record])
    return store, subject, seeds


def materialise(store: Store, name: str, **params: object) -> Manifest:
    return stage.materialise(store, registry.get(name), params=params).manifest


def table(store: Store, made: Manifest, name: str) -> list[dict[str, object]]:
    return [row for f in made.table(name) for row in store.read_table(f.path).to_pylist()]


def test_clusters_cover_what_was_kept_and_repeat(world: tuple[Store, dict[str, int], list[str]]) -> None:
    store, subject, _ = world
    made = materialise(store, "clusters", clusters=12)
    rows = table(store, made, "clusters")
    assert len(rows) == made.counts["images"] == SUBJECTS * EACH * 9 // 10
    mixed = {row["cluster"]: {subject[r["image_id"]] for r in rows if r["cluster"] == row["cluster"]} for row in rows}
    assert all(len(subjects) == 1 for subjects in mixed.values())
    assert stage.materialise(store, registry.get("clusters"), params={"clusters": 12}, force=True).manifest == made


def test_cluster_mode_is_the_default_for_small_sets_and_draws_their_subjects(
    world: tuple[Store, dict[str, int], list[str]],
) -> None:
    store, subject, _ = world
    materialise(store, "clusters", clusters=6)
    made = materialise(store, "curated_lvd")
    drawn = table(store, made, "selections")
    assert {row["mode"] for row in drawn} == {"cluster"}
    assert {subject[row["image_id"]] for row in drawn} <= {0, 1}
    assert len(drawn) >= EACH * 9 // 10
    (line,) = table(store, made, "composition")
    assert line == {
        "task": "cls",
        "dataset": "pets",
        "queries": 16,
        "mode": "cluster",
        "retrieved": len(drawn),
        "final": len(drawn),
    }


def test_modes_mix_and_every_image_is_packed_once(world: tuple[Store, dict[str, int], list[str]]) -> None:
    store, subject, seeds = world
    materialise(store, "clusters", clusters=6)
    recipe = [{"name": "pets", "modes": ["as is", "sample"], "k": 4}]
    made = materialise(store, "curated_lvd", recipe=recipe, images_per_task=10)
    rows = table(store, made, "packed")
    ids = [row["image_id"] for row in rows]
    assert len(ids) == len(set(ids)) == made.counts["images"]
    assert set(seeds) < set(ids)
    draws = [row for row in table(store, made, "selections") if row["mode"] == "sample"]
    assert len(draws) == 16 * 4
    assert made.counts["collisions"] == 64 - len({row["image_id"] for row in draws})
    assert made.counts["cross_collisions"] == 16 + 64 - len(ids)
    for row in rows:
        assert image_id(read_image(store, row)) == row["image_id"]
        assert str(row["shard"]).startswith("curated_lvd/all/")
    for row in draws:
        label = 0 if seeds.index(str(row["seed_id"])) < SEEDS else 1
        assert subject[str(row["image_id"])] == label
    assert ids != sorted(ids)
    assert [row["final"] for row in table(store, made, "composition")] == [16, 64]


def test_balanced_draws_cover_all_subjects_evenly(world: tuple[Store, dict[str, int], list[str]]) -> None:
    store, subject, _ = world
    materialise(store, "clusters", clusters=12, levels=[6], rounds=2)
    recipe = [{"name": "pets", "modes": ["as is"]}]
    made = materialise(store, "curated_lvd", recipe=recipe, balanced=60)
    drawn = [row["image_id"] for row in table(store, made, "selections") if row["mode"] == "balanced"]
    assert len(drawn) == 60
    counts = np.bincount([subject[str(i)] for i in drawn], minlength=SUBJECTS)
    assert counts.min() >= 5


def test_a_seed_that_leaks_is_not_taken_as_it_is(world: tuple[Store, dict[str, int], list[str]]) -> None:
    store, _, seeds = world
    part("sscd_distilled")
    materialise(store, "clusters", clusters=6)
    recipe = [{"name": "pets", "modes": ["as is", "sample"], "k": 2}]
    assert materialise(store, "curated_lvd", recipe=recipe).counts["leaking_seeds"] == 0
    evaluated(store, seeds[:3])
    made = materialise(store, "curated_lvd", recipe=recipe)
    assert made.counts["leaking_seeds"] == 3
    assert not set(seeds[:3]) & {row["image_id"] for row in table(store, made, "packed")}
    assert {row["seed_id"] for row in table(store, made, "selections") if row["mode"] == "sample"} == set(seeds[3:])


def test_a_seed_that_is_a_copy_of_an_evaluation_image_is_left_out(
    world: tuple[Store, dict[str, int], list[str]],
) -> None:
    """The pool does not hold it, so nothing upstream has compared it with the evaluation sets."""
    store, _, seeds = world
    part("sscd_distilled")
    recipe = [{"name": "pets", "modes": ["as is"]}]
    # Random fields of colour are alike to the network: only the same one again, brighter, is close.
    brighter = np.clip(field(9005).astype(np.int16) + 12, 0, 255).astype(np.uint8)
    evaluated(store, ["ab" * 32], CopyEmbedder("sscd_distilled", side=128)([brighter]))
    before = manifest.read(store, "deduplicated_set")
    assert before is not None
    manifest.write(store, replace(before, counts={"benchmark_rule": {"similarity": 0.95}}))
    materialise(store, "clusters", clusters=6)
    made = materialise(store, "curated_lvd", recipe=recipe)
    assert made.counts["leaking_seeds"] == 1
    taken = {row["image_id"] for row in table(store, made, "packed")}
    assert taken == set(seeds) - {seeds[5]}


def test_a_floor_keeps_out_what_is_less_like_the_seeds_than_they_are_to_each_other(
    world: tuple[Store, dict[str, int], list[str]],
) -> None:
    store, subject, _ = world
    materialise(store, "clusters", clusters=6)
    drawn = {}
    for floor in (-1.0, 0.0):
        recipe = [{"name": "pets", "modes": ["sample"], "k": 40, "floor": floor}]
        rows = table(store, materialise(store, "curated_lvd", recipe=recipe), "selections")
        drawn[floor] = {subject[str(row["image_id"])] for row in rows}
    assert drawn[-1.0] > {0, 1}, "there are fewer than forty pictures of a subject"
    assert drawn[0.0] == {0, 1}


def test_missing_seeds_and_embeddings_are_clear_errors(world: tuple[Store, dict[str, int], list[str]]) -> None:
    store, _, _ = world
    materialise(store, "clusters", clusters=6)
    with pytest.raises(UserError, match=r"curated_lvd.*no seed set 'pet'.*did you mean 'pets'"):
        materialise(store, "curated_lvd", recipe=[{"name": "pet", "modes": ["as is"]}])
    with pytest.raises(UserError, match="draws no image"):
        materialise(store, "curated_lvd", recipe=[{"name": "pets", "modes": ["cluster"], "min_hits": 99}])
    empty = store.write_table("seed_sets/all/labelled-y-00000.parquet", tables.LABELLED.empty_table())
    finished(store, "seed_sets", manifest.WHOLE, [empty])
    with pytest.raises(UserError, match="no seeds"):
        materialise(store, "curated_lvd")
    finished(
        store,
        "embeddings",
        "b1",
        [
            store.write_table(
                "embeddings/b1/embeddings-y-0.parquet", vectors.to_table(["ab" * 32], np.ones((1, 16), np.float32))
            )
        ],
    )
    with pytest.raises(UserError, match="no embedding"):
        materialise(store, "clusters")


def test_clusters_assigned_by_tasks_are_the_same_manifest(world: tuple[Store, dict[str, int], list[str]]) -> None:
    store, _, _ = world
    made = materialise(store, "clusters", clusters=12)
    again = stage.materialise(store, registry.get("clusters"), params={"clusters": 12, "by_tasks": True}, force=True)
    assert again.fresh
    assert again.manifest == made


def test_clusters_fitted_by_tasks_are_another_version_that_covers_the_same(
    world: tuple[Store, dict[str, int], list[str]],
) -> None:
    store, subject, _ = world
    made = materialise(store, "clusters", clusters=12)
    by_tasks = {"clusters": 12, "fit_by_tasks": True, "by_tasks": True}
    fitted = materialise(store, "clusters", **by_tasks)
    assert fitted.fingerprint != made.fingerprint
    rows = table(store, fitted, "clusters")
    assert {row["image_id"] for row in rows} == {row["image_id"] for row in table(store, made, "clusters")}
    mixed = {row["cluster"]: {subject[r["image_id"]] for r in rows if r["cluster"] == row["cluster"]} for row in rows}
    assert sum(len(subjects) == 1 for subjects in mixed.values()) >= len(mixed) - 2
    with pytest.raises(UserError, match="levels are fitted by one machine"):
        materialise(store, "clusters", levels=[6], **by_tasks)
