"""A suite a table: a sound lake passes every one, and each way of being unsound is found by the expectation for it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa
import pytest

import assets
from assets.gates import check_table, made_batches
from assets.suites import OPTIONAL, SUITES
from dinov2_core import manifest, tables
from dinov2_core.gates.expectation import Expect
from dinov2_core.gates.table_summary import TableSummary, summarise
from dinov2_core.storage import Store
from tests.gates import toy

STAGES = Path(__file__).resolve().parents[2] / "dinov2_core" / "stages"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return toy.lake(Store(str(tmp_path_factory.mktemp("lake"))))


@pytest.fixture
def lake(sound: Store, tmp_path: Path) -> Store:
    """The sound lake, to be changed."""
    return toy.copy(sound, tmp_path / "lake")


def summary(store: Store, stage: str, table: str) -> TableSummary:
    return summarise(store, stage, table, manifest.partitions(store, stage), SUITES[stage, table])


def broken(store: Store, stage: str, table: str) -> list[str]:
    """Expectations not met, as ``KIND of COLUMN``."""
    found = summary(store, stage, table).findings
    return [f"{f.expect.kind.removeprefix('Expect')} of {f.expect.about}" for f in found if f.outside()]


def test_every_table_has_a_suite_that_begins_with_its_schema() -> None:
    assert {table for _, table in SUITES} == {*tables.SCHEMAS, *tables.VECTORS}
    assert {table for _, table in SUITES} == set(tables.NAMED_BY)
    assert all(suite[0].kind == "ExpectTableSchemaToMatch" for suite in SUITES.values())


def test_every_table_that_a_stage_writes_by_name_has_a_suite_for_that_stage() -> None:
    written = set()
    for path in STAGES.glob("*.py"):
        for name in re.findall(r'run\.write_table\(\s*"(\w+)"', path.read_text()):
            written.add((path.stem, name))
    shared = {("training", "history")}  # the stages that train call it
    assert written - shared <= set(SUITES)
    assert {stage for stage, table in SUITES if table == "history"} == set(toy.HISTORIES)


def test_every_suite_is_a_check_of_its_asset() -> None:
    found = {
        (key.asset_key.to_user_string(), key.name)
        for check in dg.load_asset_checks_from_package_module(assets)
        for key in check.check_keys
    }
    assert {(stage, f"{table}_table") for stage, table in SUITES} <= found
    assert {(stage, "training_health") for stage in toy.HISTORIES} <= found


@pytest.mark.parametrize(("stage", "table"), SUITES, ids=[".".join(key) for key in SUITES])
def test_a_sound_table_breaks_nothing(sound: Store, stage: str, table: str) -> None:
    assert broken(sound, stage, table) == []


def edit(**values: Any) -> toy.Change:
    """Change columns of the first row."""
    return lambda rows: [{**rows[0], **values}, *rows[1:]]


def last(**values: Any) -> toy.Change:
    return lambda rows: [*rows[:-1], {**rows[-1], **values}]


def twice(rows: toy.Rows) -> toy.Rows:
    return [*rows, rows[0]]


def lost(rows: toy.Rows) -> toy.Rows:
    return rows[1:]


def none(rows: toy.Rows) -> toy.Rows:
    return []


STRANGER = toy.image("from nowhere")
LONG = [np.float16(2.0)] * toy.DIM
CASES: list[tuple[str, str, toy.Change, str]] = [
    ("raw_crawl", "images", none, "TableRowCountToBeBetween of "),
    ("raw_crawl", "images", edit(status="odd"), "ColumnValuesToBeInSet of status"),
    ("raw_crawl", "images", edit(image_id="no sha"), "ColumnValuesToMatchRegex of image_id"),
    ("raw_crawl", "images", edit(image_id=toy.ids(1)[1]), "ColumnValuesToBeUnique of image_id"),
    ("raw_crawl", "images", edit(width=0), "ColumnValuesToBeBetween of width"),
    ("raw_crawl", "images", edit(shard=None), "ColumnValuesToNotBeNull of shard"),
    ("raw_crawl", "images", edit(offset=-1), "ColumnValuesToBeBetween of offset"),
    ("raw_crawl", "images", last(reason=""), "ColumnValuesToMatchRegex of reason"),
    ("raw_crawl", "images", lost, "ColumnValuesToReferTo of image_id"),
    (
        "raw_crawl",
        "images",
        lambda rows: [{**r, "url": "same"} for r in rows],
        "ColumnProportionOfUniqueValuesToBeBetween of url",
    ),
    ("filtered_set", "verdicts", twice, "ColumnValuesToBeUnique of image_id"),
    ("filtered_set", "verdicts", lost, "ColumnValuesToCover of image_id"),
    ("filtered_set", "verdicts", edit(image_id=STRANGER), "ColumnValuesToReferTo of image_id"),
    ("filtered_set", "verdicts", edit(reason=""), "ColumnValuesToMatchRegex of reason"),
    ("filtered_set", "verdicts", edit(nsfw=1.5), "ColumnValuesToBeBetween of nsfw"),
    ("filtered_set", "verdicts", edit(nsfw=float("nan")), "ColumnValuesToBeBetween of nsfw"),
    ("filtered_set", "verdicts", edit(duplicate_of=STRANGER), "ColumnValuesToReferTo of duplicate_of"),
    (
        "filtered_set",
        "verdicts",
        edit(faces=[{"x": 0, "y": 0, "w": 0, "h": 3, "score": 0.5}]),
        "ColumnValuesToBeBetween of faces.w",
    ),
    ("filtered_set", "verdicts", lambda rows: [{**r, "nsfw": 0.9} for r in rows], "ColumnMeanToBeBetween of nsfw"),
    ("copy_embeddings", "copy_embeddings", edit(embedding=[np.float16(2.0)] * 512), "ColumnValuesToBeBetween of norm"),
    (
        "copy_embeddings",
        "copy_embeddings",
        edit(embedding=[np.float16("nan")] * 512),
        "ColumnValuesToNotBeNull of norm",
    ),
    ("copy_embeddings", "copy_embeddings", lost, "ColumnValuesToCover of image_id"),
    ("copy_edges", "edges", edit(b=STRANGER), "ColumnValuesToReferTo of b"),
    (
        "copy_edges",
        "edges",
        lambda rows: [{**rows[0], "a": rows[0]["b"], "b": rows[0]["a"]}],
        "ColumnPairValuesAToBeGreaterThanB of b, a",
    ),
    ("copy_edges", "edges", twice, "CompoundColumnsToBeUnique of a, b"),
    ("benchmark_sets", "labelled", edit(label=None), "ColumnValuesToNotBeNull of label"),
    ("benchmark_sets", "copy_embeddings", edit(image_id=STRANGER), "ColumnValuesToReferTo of image_id"),
    ("benchmark_edges", "benchmark_edges", edit(benchmark_id=STRANGER), "ColumnValuesToReferTo of benchmark_id"),
    ("benchmark_edges", "benchmark_edges", edit(benchmark="other"), "ColumnValuesToReferTo of benchmark"),
    ("deduplicated_set", "components", edit(component=STRANGER), "ColumnValuesToReferTo of component"),
    (
        "deduplicated_set",
        "components",
        lambda rows: [{**r, "keep": True, "reason": ""} for r in rows],
        "ColumnValuesToBeUnique of component",
    ),
    ("deduplicated_set", "components", edit(size=501), "ColumnMaxToBeBetween of size"),
    ("deduplicated_set", "components", lost, "ColumnValuesToCover of image_id"),
    ("seed_sets", "labelled", edit(shard=None), "ColumnValuesToNotBeNull of shard"),
    ("embeddings", "embeddings", edit(embedding=LONG), "ColumnValuesToBeBetween of norm"),
    ("seed_embeddings", "embeddings", lost, "ColumnValuesToCover of image_id"),
    ("clusters", "clusters", edit(cluster=99), "ColumnValuesToReferTo of cluster"),
    ("clusters", "clusters", twice, "ColumnValuesToBeUnique of image_id"),
    ("clusters", "centroids", edit(embedding=LONG), "ColumnValuesToBeBetween of norm"),
    ("clusters", "tree", edit(parent=9), "ParentsToExist of "),
    ("clusters", "tree", twice, "CompoundColumnsToBeUnique of level, cluster"),
    ("clusters", "tree", lost, "ColumnValuesToCover of cluster"),
    ("curated_lvd", "selections", edit(image_id=STRANGER), "ColumnValuesToReferTo of image_id"),
    ("curated_lvd", "selections", edit(seed_id=None), "ColumnValuesToNotBeNull of seed_id"),
    ("curated_lvd", "selections", edit(seed_id=STRANGER), "ColumnValuesToReferTo of seed_id"),
    ("curated_lvd", "packed", edit(image_id=STRANGER), "ColumnValuesToReferTo of image_id"),
    ("curated_lvd", "packed", lost, "ColumnValuesToCover of image_id"),
    ("curated_lvd", "composition", edit(final=5), "ColumnPairValuesAToBeGreaterThanB of retrieved, final"),
    (
        "curated_lvd",
        "composition",
        lambda rows: [{**r, "dataset": "other"} for r in rows],
        "ColumnValuesToCover of dataset",
    ),
    ("pretrained_checkpoint", "history", edit(value=None), "ColumnValuesToNotBeNull of value"),
    ("distilled_checkpoints", "history", twice, "CompoundColumnsToBeUnique of step, name"),
    ("preliminary_encoder", "history", edit(value=1e9), "ColumnValuesToBeBetween of value"),
    ("evaluation_metrics", "metrics", edit(low=0.9), "ColumnPairValuesAToBeGreaterThanB of high, low"),
]


@pytest.mark.parametrize(("stage", "table", "change", "wanted"), CASES, ids=[f"{s}.{t}: {w}" for s, t, _, w in CASES])
def test_each_way_of_being_unsound_is_found(
    lake: Store, stage: str, table: str, change: toy.Change, wanted: str
) -> None:
    toy.alter_rows(lake, stage, table, change)
    assert wanted in broken(lake, stage, table)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.drop_columns(["rank"]), "no rank"),
        (lambda t: t.append_column("extra", pa.nulls(len(t))), "unknown extra"),
        (lambda t: t.set_column(6, "rank", t["rank"].cast(pa.int64())), "rank is int64 and not int32"),
        (lambda t: t.select(t.column_names[::-1]), "order rank"),
    ],
)
def test_a_table_of_another_schema_is_named_with_what_differs(lake: Store, change: Any, said: str) -> None:
    toy.alter(lake, "curated_lvd", "selections", change)
    (finding,) = [f for f in summary(lake, "curated_lvd", "selections").findings if "Schema" in f.expect.kind]
    assert finding.outside()
    assert said in finding.examples[0]


def test_vectors_of_two_widths_in_one_table_are_a_broken_schema(store: Store) -> None:
    def table(dim: int) -> pa.Table:
        row = {"image_id": toy.image(dim), "embedding": toy.unit(0, dim)}
        return tables.from_rows([row], tables.schema("embeddings", dim=dim))

    toy.write(store, "embeddings", {"embeddings": [table(8), table(16)]}, "b")
    assert "TableSchemaToMatch of " in broken(store, "embeddings", "embeddings")


def test_an_image_that_two_batches_hold_is_not_repeated(store: Store) -> None:
    """An image found again by a later crawl has the same id; unique is a word about one batch."""
    row = {"image_id": toy.image(0), "embedding": toy.unit(0)}
    table = tables.from_rows([row], tables.schema("embeddings", dim=toy.DIM))
    for batch in toy.BATCHES:
        toy.write(store, "embeddings", {"embeddings": table}, batch)
    unique = Expect("ExpectColumnValuesToBeUnique", {"column": "image_id"})
    assert not summarise(store, "embeddings", "embeddings", toy.BATCHES, [unique]).findings[0].outside()


def test_a_table_made_from_what_has_changed_since_is_stale_and_not_wrong(lake: Store) -> None:
    toy.alter_rows(lake, "filtered_set", "verdicts", none)
    assert broken(lake, "embeddings", "embeddings") == []
    said = [f.observed for f in summary(lake, "embeddings", "embeddings").findings]
    assert 0 in said, "the first batch is judged as before"
    suite = SUITES["embeddings", "embeddings"]
    stale = [f.observed for f in summarise(lake, "embeddings", "embeddings", toy.BATCHES[1:], suite).findings]
    assert "not judged: what it refers to has changed since" in stale


def test_only_optional_tables_may_be_absent(store: Store) -> None:
    toy.write(store, "clusters", {})
    versions = made_batches(store, "clusters", ["all"])
    assert ("clusters", "tree") in OPTIONAL
    result = check_table(store, "clusters", "tree", versions)
    assert result.passed
    assert "no such table" in str(result.description)
    with pytest.raises(dg.Failure, match="no table 'centroids'"):
        check_table(store, "clusters", "centroids", versions)
