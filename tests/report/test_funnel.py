"""The funnel's counts, on tables small enough to count by hand."""

from __future__ import annotations

import itertools
from typing import Any

from dinov2_core import tables
from dinov2_core.report.funnel import Step, funnel


def made(name: str, rows: list[dict[str, Any]]) -> Any:
    return tables.from_rows(rows, tables.SCHEMAS[name])


def test_counts_and_reasons_of_every_step() -> None:
    images = [{"image_id": i, "status": "stored", "reason": ""} for i in "abcdefa"]  # a in two batches
    images += [{"status": "refused", "reason": "blocked domain"}] * 3 + [{"status": "failed", "reason": "http 404"}]
    verdicts = [{"image_id": i, "keep": True, "reason": ""} for i in "abcd"]
    verdicts += [{"image_id": "a", "keep": True, "reason": ""}]  # again, in a second batch
    verdicts += [{"image_id": i, "keep": False, "reason": "too small"} for i in "ef"]
    components = [
        {"image_id": "a", "keep": True, "reason": ""},
        {"image_id": "b", "keep": False, "reason": "copy of a"},
        {"image_id": "c", "keep": False, "reason": "leak of cifar10"},
        {"image_id": "d", "keep": True, "reason": ""},
    ]
    packed = [{"image_id": "d"}, {"image_id": "a seed"}]
    steps = funnel(
        made("images", images), made("verdicts", verdicts), made("components", components), made("packed", packed)
    )
    assert {s.name: s.count for s in steps} == {
        "references": 11,
        "stored": 7,
        "kept": 5,
        "deduplicated": 2,
        "drawn": 1,
    }
    drops = {s.name: s.drops for s in steps}
    assert drops["stored"] == (("blocked domain", 3), ("http 404", 1))
    assert drops["kept"] == (("too small", 2),)
    assert drops["deduplicated"] == (("copy of another", 1), ("in an earlier batch", 1), ("leak of cifar10", 1))
    assert drops["drawn"] == (("not drawn by any seed", 1),)
    for before, after in itertools.pairwise(steps):
        assert before.count - after.count == sum(n for _, n in after.drops), after.name


def test_an_empty_pool_is_a_funnel_of_zeros() -> None:
    steps = funnel(*(made(name, []) for name in ("images", "verdicts", "components", "packed")))
    assert [s.count for s in steps] == [0, 0, 0, 0, 0]
    assert all(isinstance(s, Step) and s.drops == () for s in steps)
