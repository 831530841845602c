"""Keys compared range by range against keys compared all at once, in memory and through files."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dinov2_core.gates import fingerprints, keys
from dinov2_core.gates.expectation import Expect, error
from dinov2_core.gates.fingerprints import Fingerprints, Memory
from dinov2_core.gates.table_summary import summarise
from dinov2_core.storage import Store
from tests.gates import toy

ENDS = [-(2**63), -(2**63) + 1, -(2**58), -1, 0, 1, 2**58 - 1, 2**58, 2**63 - 1]
PRINTS = st.lists(st.sampled_from(ENDS) | st.integers(-(2**63), 2**63 - 1), max_size=40)
SOMETIMES = st.sampled_from([0, 300, 1 << 20])
"""Bytes: everything in files, some of it, nothing."""


def filled(values: list[int], memory: int, *, step: int = 3) -> Fingerprints:
    made = Fingerprints(Memory(memory), numbered=True)
    for start in range(0, len(values), step):
        some = np.array(values[start : start + step], np.int64)
        made.add(some, start + np.arange(len(some)))
    return made


@pytest.fixture(autouse=True)
def short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprints, "RUN", 7)


@settings(max_examples=60, deadline=None)
@given(PRINTS, SOMETIMES)
def test_ranges_together_are_all_rows_sorted_wherever_they_waited(values: list[int], memory: int) -> None:
    made = filled(values, memory)
    for _ in range(2):  # and asked again they are the same
        ranges = list(made.ranges())
        assert len(ranges) == fingerprints.RANGES
        assert np.concatenate(ranges).tolist() == sorted([v, n] for n, v in enumerate(values))
    assert made.on_disk is (16 * len(values) > memory), "two numbers a key"
    made.clear()


@settings(max_examples=60, deadline=None)
@given(PRINTS, PRINTS, SOMETIMES)
def test_what_is_outside_is_what_sets_say(own: list[int], known: list[int], memory: int) -> None:
    found = np.concatenate(list(keys.outside(filled(own, memory), filled(known, memory, step=5))))
    assert found.tolist() == sorted([v, n] for n, v in enumerate(own) if v not in set(known))


def test_a_range_is_what_is_held_and_memory_is_given_back() -> None:
    rng, memory = np.random.default_rng(0), Memory(10_000)
    made = Fingerprints(memory)
    made.add(rng.integers(-(2**63), 2**63 - 1, 64_000))
    made.add(rng.integers(-(2**63), 2**63 - 1, 1000))
    assert max(map(len, made.ranges())) < 2 * 65_000 / fingerprints.RANGES
    assert memory.left == 10_000 - 8 * 1000
    made.clear()
    assert memory.left == 10_000


SUITE = [
    error("ExpectColumnValuesToBeUnique", column="image_id"),
    error("ExpectColumnProportionOfUniqueValuesToBeBetween", column="cluster", min_value=0.0, max_value=1.0),
    error("ExpectColumnValuesToReferTo", column="image_id", to=("deduplicated_set", "components", "image_id")),
    error("ExpectColumnValuesToCover", column="image_id", to=("deduplicated_set", "components", "image_id")),
    error("ExpectColumnValuesToReferTo", column="cluster", to=("", "centroids", "image_id")),
]


def judged(store: Store, memory: int, suite: list[Expect] = SUITE) -> list[Any]:
    found = summarise(store, "clusters", "clusters", ["all"], suite, memory=memory).findings
    return [(f.values, f.observed, f.examples) for f in found]


def test_a_check_says_the_same_whatever_it_may_hold(store: Store) -> None:
    """Three parts in which keys repeat, refer to nothing and are missing, the rows to name in the second and third."""
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, 900, 600)
    drawn[:250] = np.arange(250)
    parts = [
        pa.table({"image_id": [f"i{v}" for v in some], "cluster": pa.array(some % 7, pa.int32())})
        for some in np.split(drawn, [200, 400])
    ]
    there = rng.permutation(np.arange(300, 700))
    known = {"components": pa.table({"image_id": [f"i{v}" for v in [*range(260), *there]]})}
    toy.write(store, "deduplicated_set", known)
    contents = {"clusters": parts, "centroids": pa.table({"image_id": [str(v) for v in range(5)]})}
    toy.write(store, "clusters", contents, upstream=("deduplicated_set/all",))
    held, in_files = judged(store, 1 << 30), judged(store, 0)
    assert held == in_files
    repeated, share, orphans, missing, lost = held
    values, counts = np.unique(drawn, return_counts=True)
    assert repeated[1] == counts[counts > 1].sum()
    assert share[0][0] == 7 / 600
    out = [v for v in drawn if not (v < 260 or 300 <= v < 700)]
    assert orphans[0] == (0, *(sum(v in out for v in some) for some in np.split(drawn, [200, 400])[1:]))
    assert orphans[2] == tuple(f"i{v}: i{v}" for v in out[:5])
    gone = [v for v in [*range(260), *there] if v not in set(values.tolist())]
    assert (missing[1], missing[2]) == (len(gone), tuple(f"i{v}" for v in gone[:5]))
    assert lost[1] == int((drawn % 7 > 4).sum())
