"""Settings are read strictly: unknown names and wrong kinds are errors that help."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pytest

from dinov2_core import config
from dinov2_core.errors import ConfigError


@dataclass(frozen=True)
class Inner:
    rate: float = 0.1


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner = Inner()
    sizes: tuple[int, ...] = ()
    pair: tuple[int, str] = (1, "a")
    many: tuple[Inner, ...] = ()
    limit: int | None = None
    mode: Literal["a", "b"] = "a"
    table: dict[str, float] | None = None


def test_nested_settings_become_frozen_dataclasses() -> None:
    made = config.build(
        Outer,
        {"name": "x", "inner": {"rate": "1e-4"}, "sizes": [1, 2], "many": [{"rate": 1}], "table": {"k": 2}, "limit": 3},
    )
    assert made == Outer("x", Inner(1e-4), (1, 2), many=(Inner(1.0),), limit=3, table={"k": 2.0})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "x", "siezs": []}, r"unknown setting 'siezs' \(did you mean 'sizes'\?\)"),
        ({"name": "x", "inner": {"rat": 1}}, r"Outer\.inner: unknown setting 'rat' \(did you mean 'rate'"),
        ({}, "missing 1 required"),
        ({"name": 3}, r"Outer\.name: expected str, got 3"),
        ({"name": "x", "sizes": 3}, "expected a list"),
        ({"name": "x", "sizes": [True]}, r"sizes\[0\]: expected int, got True"),
        ({"name": "x", "pair": [1]}, "expected 2 values, got 1"),
        ({"name": "x", "mode": "c"}, "'c' is not one of 'a', 'b'"),
        ({"name": "x", "inner": 3}, "expected a mapping"),
        ({"name": "x", "limit": "many"}, "expected int, got 'many'"),
    ],
)
def test_mistakes_name_the_setting(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config.build(Outer, values)


def test_equal_settings_have_one_digest() -> None:
    assert config.digest({"b": (1, 2), "a": Inner()}) == config.digest({"a": {"rate": 0.1}, "b": [1, 2]})
    assert config.digest({"a": 1}) != config.digest({"a": 2})
