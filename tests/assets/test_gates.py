"""A broken table stops what is downstream; a strange one only shows."""

from __future__ import annotations

from typing import Any

import dagster as dg
import pandas as pd
import pyarrow as pa
import pytest

from assets import gates
from assets.gates import error, validate, warn

SUITE = (
    error("ExpectColumnValuesToNotBeNull", column="image_id"),
    error("ExpectColumnValuesToBeBetween", column="nsfw", min_value=0, max_value=1),
    warn("ExpectColumnMeanToBeBetween", column="nsfw", max_value=0.3),
)


def result_of(frame: pd.DataFrame) -> dg.AssetCheckResult:
    return gates.to_result(validate(frame, SUITE, name="t"), rows=len(frame), seen=len(frame))


def test_a_good_table_passes() -> None:
    result = result_of(pd.DataFrame({"image_id": ["a", "b"], "nsfw": [0.1, 0.2]}))
    assert result.passed
    assert result.description == "3 expectations met on 2 rows"


def test_an_error_expectation_fails_with_column_and_example() -> None:
    result = result_of(pd.DataFrame({"image_id": ["a", "b"], "nsfw": [0.1, -7.0]}))
    assert not result.passed
    assert result.severity is dg.AssetCheckSeverity.ERROR
    assert "ExpectColumnValuesToBeBetween on nsfw" in str(result.description)
    assert "-7.0" in str(result.description)


def test_a_warn_expectation_shows_and_does_not_block() -> None:
    result = result_of(pd.DataFrame({"image_id": ["a", "b"], "nsfw": [0.9, 0.9]}))
    assert not result.passed
    assert result.severity is dg.AssetCheckSeverity.WARN


def test_an_expectation_on_a_column_that_is_not_there_is_our_error() -> None:
    with pytest.raises(ValueError, match="could not be evaluated"):
        validate(pd.DataFrame({"other": [1]}), SUITE, name="t")


def test_embeddings_are_checked_by_their_norm(store: Any) -> None:
    table = pa.table(
        {
            "image_id": ["a", "b"],
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array([0.6, 0.8, 3.0, 4.0], pa.float16()), 2),
        }
    )
    assert gates._to_frame(table)["norm"].round(2).tolist() == [1.0, 5.0]


def test_a_corrupted_table_blocks_what_is_downstream(tmp_path: Any) -> None:
    """The same adapter inside a run: the check fails, the asset below is not materialised."""
    frames = {"nsfw": [0.5, 2.0]}

    @dg.asset
    def upper() -> None: ...

    @dg.asset_check(asset=upper, blocking=True)
    def gate() -> dg.AssetCheckResult:
        frame = pd.DataFrame({"image_id": ["a", "b"], **frames})
        return result_of(frame)

    @dg.asset(deps=[upper])
    def lower() -> None: ...

    def materialised() -> set[str]:
        ended = dg.materialize([upper, gate, lower], raise_on_error=False)
        return {e.asset_key.to_user_string() for e in ended.get_asset_materialization_events() if e.asset_key}

    assert materialised() == {"upper"}
    frames["nsfw"] = [0.9, 0.9]
    assert materialised() == {"upper", "lower"}, "a warning lets pass"
