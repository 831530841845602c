"""Batches beside batches, as the checks see them: what moved shows, what broke blocks, what differs is not compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest

from assets import data_docs, drift
from assets.drift import TRAILING, WATCHED, check_batches
from assets.gates import made_batches
from dinov2_core import tables
from dinov2_core.stages import registry
from dinov2_core.storage import Store
from tests.gates import toy


def verdicts(store: Store, batch: str, count: int, *, dropped: int = 0, unsafe: int = 0, faces: int = 0) -> None:
    face = [{"x": 0, "y": 0, "w": 3, "h": 3, "score": 0.5}]
    rows = [
        {"image_id": toy.image(f"{batch}/{i}"), "keep": i >= dropped, "reason": "" if i >= dropped else "small"}
        | {"nsfw": 0.9 if i < unsafe else 0.01, "faces": face if i < faces else []}
        for i in range(count)
    ]
    toy.write(store, "filtered_set", {"verdicts": tables.from_rows(rows, tables.VERDICTS)}, batch)


def vectors(store: Store, batch: str, centre: int, *, params: dict[str, Any] | None = None, seed: int = 0) -> None:
    rng = np.random.default_rng([seed, *batch.encode()])
    found = rng.normal(size=(300, 16)) + 2 * np.eye(16)[centre]
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    rows = [{"image_id": str(i), "embedding": list(v.astype(np.float16))} for i, v in enumerate(found)]
    table = tables.from_rows(rows, tables.schema("embeddings", dim=16))
    toy.write(store, "embeddings", {"embeddings": table}, batch, params=params)


def check(store: Store, stage: str, table: str, *batches: str) -> dg.AssetCheckResult:
    return check_batches(store, stage, table, made_batches(store, stage, batches))


def failed(result: dg.AssetCheckResult) -> dict[str, str]:
    """Column → the gravest severity that failed."""
    rows = result.metadata["failed"].data if "failed" in result.metadata else []
    return {r["column"]: r["severity"] for r in sorted(rows, key=lambda r: r["severity"], reverse=True)}


def test_every_partitioned_table_of_images_or_vectors_is_watched() -> None:
    partitioned = {stage for stage, spec in registry.STAGES.items() if spec.partitioned}
    # Edges grow with the pool and not with the batch.
    assert {stage for stage, _ in WATCHED} == partitioned - {"copy_edges", "benchmark_edges"}


def test_the_first_batch_has_nothing_to_be_compared_with(store: Store) -> None:
    verdicts(store, "b1", 50)
    result = check(store, "filtered_set", "verdicts", "b1")
    assert result.passed
    assert "no earlier batch" in result.metadata["expectations"].records[0].data["observed"]


def test_batches_alike_pass(store: Store) -> None:
    for batch, count in (("b1", 400), ("b2", 300), ("b3", 500)):
        verdicts(store, batch, count, dropped=count // 20, faces=count // 10)
    assert check(store, "filtered_set", "verdicts", "b1", "b2", "b3").passed


@pytest.mark.parametrize(
    ("about", "column", "severity"),
    [
        ({"count": 3000}, "rows", "warn"),
        ({"count": 40}, "rows", "warn"),
        ({"count": 400, "dropped": 120}, "dropped", "warn"),
        ({"count": 400, "dropped": 390}, "dropped", "error"),
        ({"count": 400, "unsafe": 40}, "unsafe", "warn"),
        ({"count": 400, "unsafe": 200}, "unsafe", "error"),
        ({"count": 400, "faces": 100}, "faces", "warn"),
        ({"count": 400, "faces": 399}, "faces", "error"),
    ],
)
def test_what_moved_is_named_and_what_broke_blocks(
    store: Store, about: dict[str, int], column: str, severity: str
) -> None:
    for batch in ("b1", "b2"):
        verdicts(store, batch, 400, dropped=4)
    verdicts(store, "b3", **{"dropped": about["count"] // 100, **about})
    result = check(store, "filtered_set", "verdicts", "b3")
    assert failed(result) == {column: severity}
    assert (result.severity is dg.AssetCheckSeverity.ERROR) == (severity == "error")
    assert "b3: " in str(result.description)


def test_embeddings_that_drift_are_shown_and_those_of_a_broken_encoder_block(store: Store) -> None:
    vectors(store, "b1", 0)
    vectors(store, "b2", 0)
    vectors(store, "b3", 1)
    assert check(store, "embeddings", "embeddings", "b2").passed
    assert failed(check(store, "embeddings", "embeddings", "b3")) == {"embedding": "warn"}
    constant = [{"image_id": str(i), "embedding": [-1.0] + [0.0] * 15} for i in range(300)]
    toy.write(
        store, "embeddings", {"embeddings": tables.from_rows(constant, tables.schema("embeddings", dim=16))}, "b4"
    )
    assert failed(check(store, "embeddings", "embeddings", "b4")) == {"embedding": "error"}


def test_batches_of_another_encoder_are_not_compared(store: Store) -> None:
    vectors(store, "b1", 0, params={"encoder": "old"})
    vectors(store, "b2", 1, params={"encoder": "new"})
    assert check(store, "embeddings", "embeddings", "b2").passed


def test_a_batch_is_compared_with_the_latest_ones_only(store: Store) -> None:
    verdicts(store, "b0", 400, dropped=390)
    for number in range(1, TRAILING + 2):
        verdicts(store, f"b{number}", 400)
    assert check(store, "filtered_set", "verdicts", f"b{TRAILING + 1}").passed
    assert not check(store, "filtered_set", "verdicts", "b1").passed


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The batches that are read, as they are."""
    found: list[str] = []
    real = drift.batch_profile.measure

    def counted(of: Store, made: Any, *rest: Any, **more: Any) -> Any:
        found.append(made.partition)
        return real(of, made, *rest, **more)

    monkeypatch.setattr(drift.batch_profile, "measure", counted)
    return found


def test_a_batch_is_read_once_and_not_for_each_later_one(store: Store, read: list[str]) -> None:
    for batch in ("b1", "b2", "b3"):
        verdicts(store, batch, 20)
    for batch in ("b1", "b2", "b3"):
        check(store, "filtered_set", "verdicts", batch)
    assert sorted(read) == ["b1", "b2", "b3"]
    verdicts(store, "b1", 21)
    check(store, "filtered_set", "verdicts", "b3")
    assert read.count("b1") == 2, "a batch that was made again is another batch"


def test_profiles_lie_apart_from_the_results(store: Store) -> None:
    verdicts(store, "b1", 20)
    check(store, "filtered_set", "verdicts", "b1")
    kept = [p for p in store.find(data_docs.FOLDER) if p.endswith(".json") and not data_docs.is_result(p)]
    assert len(kept) == 1
    assert json.loads(store.read_bytes(kept[0]))["rows"] == 20
    assert Path(kept[0]).parent.name == "profiles"


def test_what_the_checks_leave_does_not_grow_with_the_batches(
    store: Store, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drift, "KEPT", 3)
    sizes = []
    for number in range(20):
        verdicts(store, f"b{number:02d}", 20)
        assert check(store, "filtered_set", "verdicts", f"b{number:02d}").passed
        sizes.append(len(store.find(data_docs.FOLDER)))
    assert sizes[TRAILING:] == [sizes[TRAILING]] * (20 - TRAILING), "one result, one page, the latest profiles"
    assert len(read) == 20, "and each batch was read once all the same"
    for batch in ("b03", "b19"):
        verdicts(store, batch, 21)
        check(store, "filtered_set", "verdicts", batch)
    assert len(store.find(drift.PROFILES)) <= drift.KEPT + TRAILING + 1, "whatever is made again"


def test_a_run_over_many_batches_leaves_no_more_than_runs_over_each(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drift, "KEPT", 3)
    batches = [f"b{number:02d}" for number in range(12)]
    for batch in batches:
        verdicts(store, batch, 20)
        vectors(store, batch, 1)
    versions = made_batches(store, "filtered_set", batches)
    assert drift.check_batches(store, "filtered_set", "verdicts", versions).passed
    check(store, "embeddings", "embeddings", batches[-1])
    kept = [Path(p).name for p in store.find(drift.PROFILES)]
    assert len([name for name in kept if name.startswith("filtered_set.verdicts-")]) == TRAILING + 1
    assert len([name for name in kept if name.startswith("embeddings.embeddings-")]) == TRAILING + 1
