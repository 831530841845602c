"""A score split by a column: groups, gap, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from dinov2_core.errors import UserError
from dinov2_core.evaluate.fairness import split


def test_groups_and_gap_by_hand() -> None:
    found = split([1, 1, 0, 0, 1, 1], ["low", "high", "low", "low", "high", "high"])
    assert [(g.name, g.count) for g in found.groups] == [("low", 3), ("high", 3)]
    assert found.groups[0].score.value == pytest.approx(1 / 3)
    assert found.gap.value == pytest.approx(2 / 3)
    assert found.gap.low <= found.gap.value <= found.gap.high


def test_the_groups_add_up_to_the_whole() -> None:
    rng = np.random.default_rng(0)
    scores, column = rng.integers(0, 2, 300), rng.choice(["a", "b", "c"], 300).tolist()
    found = split(scores, column)
    assert sum(g.count * g.score.value for g in found.groups) == pytest.approx(scores.sum())


def test_a_missing_value_is_an_error_that_names_the_row() -> None:
    with pytest.raises(UserError, match="first is row 1"):
        split([1, 0, 1], ["a", None, "b"])
    with pytest.raises(UserError, match="single value"):
        split([1, 0], ["a", "a"])
    with pytest.raises(UserError, match="2 scores and 1 values"):
        split([1, 0], ["a"])
