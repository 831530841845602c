"""Expectations that one row alone can break, decided by columns of many rows at once.

They mean what the Great Expectations class of the same name means over a pandas frame, but for two things: here NaN is
a value, which lies in no range, while pandas takes it for a missing one; and regular expressions are RE2's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dinov2_core.gates.blocks import Block

Settings = Mapping[str, Any]
Broken = tuple[np.ndarray, list[Any]]
"""Rows that break the rule, int64 [B], and what stands there."""


def broken(kind: str, settings: Settings, block: Block, *, limit: int) -> Broken:
    """Rows of ``block`` that break a rule, and the values of the first ``limit`` of them."""
    bad = RULES[kind](settings, block)
    where = settings.get("where")
    if kind == PAIR:
        columns = [settings["column_A"], settings["column_B"]]
        rows = np.flatnonzero(bad & block.mask(where) if where else bad)
        return rows, [" ".join(str(block.rows.column(c)[int(r)].as_py()) for c in columns) for r in rows[:limit]]
    values, parents = block.values(settings["column"])
    if where:
        meant = block.mask(where)
        bad = bad & (meant if parents is None else meant[parents])
    at = np.flatnonzero(bad)
    return (at if parents is None else parents[at]), [values[int(i)].as_py() for i in at[:limit]]


def _numpy(mask: Any, missing: bool) -> np.ndarray:
    return np.asarray(pc.fill_null(mask, missing).to_numpy(zero_copy_only=False), bool)


def _nan(values: pa.Array) -> np.ndarray:
    if pa.types.is_floating(values.type):
        return _numpy(pc.is_nan(values), False)
    return np.zeros(len(values), bool)


def _not_null(settings: Settings, block: Block) -> np.ndarray:
    values, _ = block.values(settings["column"])
    return pc.is_null(values).to_numpy(zero_copy_only=False) | _nan(values)


def _between(settings: Settings, block: Block) -> np.ndarray:
    values, _ = block.values(settings["column"])
    return _outside(values, settings.get("min_value"), settings.get("max_value"))


def _outside(values: pa.Array, low: float | None, high: float | None) -> np.ndarray:
    bad = _nan(values)
    # In double precision, as pandas compares; a float32 limit would move.
    wide = pc.cast(values, pa.float64()) if pa.types.is_floating(values.type) else values
    if low is not None:
        bad = bad | _numpy(pc.less(wide, low), False)
    if high is not None:
        bad = bad | _numpy(pc.greater(wide, high), False)
    return bad


def _in_set(settings: Settings, block: Block) -> np.ndarray:
    values, _ = block.values(settings["column"])
    allowed = pc.is_in(values, value_set=pa.array(settings["value_set"], values.type))
    return ~allowed.to_numpy(zero_copy_only=False) & pc.is_valid(values).to_numpy(zero_copy_only=False)


def _matches(settings: Settings, block: Block) -> np.ndarray:
    values, _ = block.values(settings["column"])
    return ~_numpy(pc.match_substring_regex(values, settings["regex"]), True)


def _length(settings: Settings, block: Block) -> np.ndarray:
    values, _ = block.values(settings["column"])
    return _outside(pc.utf8_length(values), settings.get("min_value"), settings.get("max_value"))


def _ordered(settings: Settings, block: Block) -> np.ndarray:
    (larger, _), (smaller, _) = block.values(settings["column_A"]), block.values(settings["column_B"])
    compare = pc.greater_equal if settings.get("or_equal") else pc.greater
    neither = pc.is_null(larger, nan_is_null=True), pc.is_null(smaller, nan_is_null=True)
    return ~_numpy(compare(larger, smaller), False) & ~_numpy(pc.and_(*neither), False)


PAIR = "ExpectColumnPairValuesAToBeGreaterThanB"
RULES: Mapping[str, Callable[[Settings, Block], np.ndarray]] = {
    "ExpectColumnValuesToNotBeNull": _not_null,
    "ExpectColumnValuesToBeBetween": _between,
    "ExpectColumnValuesToBeInSet": _in_set,
    "ExpectColumnValuesToMatchRegex": _matches,
    "ExpectColumnValueLengthsToBeBetween": _length,
    PAIR: _ordered,
}
