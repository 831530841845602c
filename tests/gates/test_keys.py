"""Keys by fingerprint against keys by text: what repeats, what is inside, and what to do when two collide."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dinov2_core.gates import keys
from dinov2_core.gates.blocks import Block, show
from dinov2_core.gates.expectation import error
from dinov2_core.gates.table_summary import summarise
from dinov2_core.storage import Store
from tests.gates import toy

PRINTS = st.lists(st.integers(-5, 5)).map(lambda values: np.array(values, np.int64))


@settings(max_examples=50, deadline=None)
@given(PRINTS)
def test_repeated_counts_every_row_of_a_repeated_key(prints: np.ndarray) -> None:
    often = {key: count for key, count in Counter(prints.tolist()).items() if count > 1}
    found, rows = keys.repeated(prints.copy())
    assert set(found.tolist()) == set(often)
    assert rows == sum(often.values())


@settings(max_examples=50, deadline=None)
@given(PRINTS, PRINTS)
def test_inside_is_membership(prints: np.ndarray, known: np.ndarray) -> None:
    assert keys.inside(prints, np.unique(known)).tolist() == [p in set(known.tolist()) for p in prints.tolist()]


def test_keys_that_differ_are_not_called_equal_though_their_fingerprints_are(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A collision is rare and would block a sound table: the keys themselves are looked at."""

    def colliding(self: Block, columns: Any) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros(len(self), np.int64), np.ones(len(self), bool)

    monkeypatch.setattr(Block, "fingerprints", colliding)
    toy.write(store, "clusters", {"clusters": pa.table({"image_id": ["a", "b", "c", "c"]})})
    unique = error("ExpectColumnValuesToBeUnique", column="image_id")
    (found,) = summarise(store, "clusters", "clusters", ["all"], [unique]).findings
    assert found.observed == 2
    assert found.examples == ("c",)


def test_keys_of_numbers_and_of_text_are_compared_as_text(store: Store) -> None:
    clusters = pa.table({"image_id": ["a", "b"], "cluster": pa.array([0, 7], pa.int32())})
    toy.write(store, "clusters", {"clusters": clusters, "centroids": pa.table({"image_id": ["0", "1"]})})
    refers = error("ExpectColumnValuesToReferTo", column="cluster", to=("", "centroids", "image_id"))
    (found,) = summarise(store, "clusters", "clusters", ["all"], [refers]).findings
    assert found.examples == ("b: 7",)


def test_a_key_of_several_columns_is_none_only_where_all_are_null() -> None:
    block = Block(pa.RecordBatch.from_pydict({"a": ["x", None, None], "b": ["y", "y", None]}))
    prints, valid = block.fingerprints(["a", "b"])
    assert valid.tolist() == [True, True, False]
    assert prints[0] != prints[1]


@pytest.mark.parametrize(
    ("value", "shown"),
    [("plain", "plain"), ("two\nlines", "two\\x0alines"), ("\u202eabc", "\\x202eabc"), ("x" * 300, "x" * 99 + "…")],
)
def test_what_is_shown_is_one_short_line(value: str, shown: str) -> None:
    assert show(value) == shown
