"""The fast path means what the plain one means: rules over columns against Great Expectations over pandas rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from assets.gates import validate
from dinov2_core import tables
from dinov2_core.gates import row_rules
from dinov2_core.gates.blocks import Block
from dinov2_core.gates.expectation import Expect, error
from dinov2_core.gates.table_summary import summarise
from dinov2_core.storage import Store
from tests.gates import toy

ROW = st.fixed_dictionaries(
    {
        "image_id": st.one_of(st.none(), st.sampled_from(["a", "b", "", "ab", "a b"])),
        "dataset": st.one_of(st.none(), st.sampled_from(["x", "y"])),
        "similarity": st.one_of(st.none(), st.floats(-2, 2, width=32)),
        "rank": st.one_of(st.none(), st.integers(-3, 3)),
        "cluster": st.one_of(st.none(), st.integers(-3, 3)),
    }
)
SUITE = [
    error("ExpectColumnValuesToNotBeNull", column="image_id"),
    error("ExpectColumnValuesToNotBeNull", column="similarity"),
    error("ExpectColumnValuesToBeBetween", column="similarity", min_value=-0.1, max_value=0.7),
    error("ExpectColumnValuesToBeBetween", column="rank", min_value=0),
    error("ExpectColumnValuesToBeInSet", column="dataset", value_set=["x"]),
    error("ExpectColumnValuesToMatchRegex", column="image_id", regex="^a"),
    error("ExpectColumnValueLengthsToBeBetween", column="image_id", min_value=1, max_value=2),
    error("ExpectColumnPairValuesAToBeGreaterThanB", column_A="rank", column_B="cluster", or_equal=True),
    error("ExpectColumnPairValuesAToBeGreaterThanB", column_A="rank", column_B="cluster"),
    error("ExpectColumnValuesToBeUnique", column="image_id"),
    error("ExpectCompoundColumnsToBeUnique", column_list=["image_id", "dataset"]),
    error("ExpectTableRowCountToBeBetween", min_value=3, max_value=9),
    error("ExpectColumnProportionOfUniqueValuesToBeBetween", column="dataset", min_value=0.5),
    error("ExpectColumnMeanToBeBetween", column="similarity", min_value=-0.5, max_value=0.5),
    error("ExpectColumnMaxToBeBetween", column="rank", max_value=2),
    error("ExpectColumnMinToBeBetween", column="rank", min_value=-2),
]


def by_parts(folder: Any, table: pa.Table) -> list[bool]:
    """Whether each expectation of the suite holds, measured over the table cut into parts."""
    store = Store(str(folder))
    cut = max(1, len(table) // 3)
    toy.write(store, "curated_lvd", {"selections": [table.slice(i, cut) for i in range(0, len(table), cut)]})
    return [not f.outside() for f in summarise(store, "curated_lvd", "selections", ["all"], SUITE).findings]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(ROW, min_size=1, max_size=12))
def test_parts_by_column_give_the_verdicts_of_great_expectations(tmp_path: Any, rows: list[dict[str, Any]]) -> None:
    filled = {"image_id": "a", "dataset": "x", "similarity": 0.5, "rank": 1, "cluster": 0}
    # Of a column without values there is nothing to say; Great Expectations' aggregates fail on one.
    table = tables.from_rows([*rows, filled], tables.SELECTIONS)
    outcomes = validate(table.to_pandas(), SUITE, name="t")
    plain = {id(o.expect): o.success for o in outcomes}
    assert by_parts(tmp_path, table) == [plain[id(expect)] for expect in SUITE]


def test_where_means_the_rows_it_names(store: Store) -> None:
    rows = [{"image_id": str(i), "mode": mode, "rank": -1} for i, mode in enumerate(["sample", "as is", None])]
    toy.write(store, "curated_lvd", {"selections": tables.from_rows(rows, tables.SELECTIONS)})
    for where, count in (({"mode": "sample"}, 1), ({"mode": ("sample", "as is")}, 2), ({"rank": (">", 0)}, 0), ({}, 3)):
        rule = error("ExpectColumnValuesToBeBetween", column="rank", min_value=0, where=where)
        assert summarise(store, "curated_lvd", "selections", ["all"], [rule]).findings[0].observed == count


def test_not_a_number_lies_in_no_range(store: Store) -> None:
    """The one difference from pandas, to which NaN is a missing value."""
    rows = [{"image_id": "a", "similarity": float("nan")}, {"image_id": "b", "similarity": None}]
    toy.write(store, "curated_lvd", {"selections": tables.from_rows(rows, tables.SELECTIONS)})
    rule = error("ExpectColumnValuesToBeBetween", column="similarity", min_value=0)
    (found,) = summarise(store, "curated_lvd", "selections", ["all"], [rule]).findings
    assert found.examples == ("a None None: nan",)


def test_fields_of_lists_are_judged_each_and_named_by_their_row() -> None:
    face = {"x": 0, "y": 0, "w": 3, "h": 3, "score": 0.5}
    rows = [{"image_id": "a", "faces": []}, {"image_id": "b", "faces": [face, {**face, "w": 0}]}, {"image_id": "c"}]
    block = Block(tables.from_rows(rows, tables.VERDICTS).combine_chunks().to_batches()[0])
    settings = {"column": "faces.w", "min_value": 1}
    at, values = row_rules.broken("ExpectColumnValuesToBeBetween", settings, block, limit=5)
    assert at.tolist() == [1]
    assert values == [0]
    assert block.mask({"faces": (">", 1)}).tolist() == [False, True, False]


def test_an_expectation_on_a_column_that_is_not_there_fails_with_its_name(store: Store) -> None:
    toy.write(store, "clusters", {"clusters": pa.table({"image_id": ["a"]})})
    rule = error("ExpectColumnValuesToBeBetween", column="cluster", min_value=0)
    (found,) = summarise(store, "clusters", "clusters", ["all"], [rule]).findings
    assert found.outside() == [0]
    assert found.observed == "no column cluster"


def test_an_unknown_kind_is_our_error(store: Store) -> None:
    toy.write(store, "clusters", {"clusters": pa.table({"image_id": ["a"]})})
    with pytest.raises(ValueError, match="no measure for ExpectLuck"):
        summarise(store, "clusters", "clusters", ["all"], [Expect("ExpectLuck", {})])


def test_norms_are_those_of_the_stored_vectors() -> None:
    vectors = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float16)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), 8)
    block = Block(pa.RecordBatch.from_arrays([column], ["embedding"]).slice(1, 3))
    norms = block.values("norm")[0].to_numpy()
    np.testing.assert_allclose(norms, np.linalg.norm(vectors[1:4].astype(np.float32), axis=1), rtol=1e-6)
