"""Two tiny stages for the tests of materialisation: numbers per batch, and their sum over all batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from dinov2_core import stage
from dinov2_core.stage import StageRun, StageSpec
from dinov2_core.storage import Store

NUMBERS = pa.schema([("value", pa.int64())])


@dataclass(frozen=True)
class Params:
    count: int = 4
    factor: int = 1
    workers: int = stage.efficiency(1)


def write_numbers(task: Any) -> dict[str, Any]:
    store = Store(task["root"])
    if task.get("stop_at") == task["key"]:
        raise KeyboardInterrupt
    with store.create(f"calls/{task['key']}-{len(store.find('calls'))}") as f:
        f.write(b"called")
    table = pa.table({"value": pa.array([task["value"]], pa.int64())})
    record = store.write_table(task["stem"].format(name="numbers") + ".parquet", table)
    return {"files": [record], "sum": task["value"]}


def numbers(run: StageRun) -> dict[str, Any]:
    stop = STOP.get("at")
    tasks = {f"{i:03d}": {"value": i * run.params.factor, "stop_at": stop} for i in range(run.params.count)}
    return {"sum": sum(s["sum"] for s in run.map(write_numbers, tasks))}


def total(run: StageRun) -> dict[str, Any]:
    values = run.read("numbers", "numbers")["value"].to_pylist()
    run.write_table("totals", pa.table({"value": pa.array([sum(values)], pa.int64())}))
    return {"total": sum(values)}


def external(store: Store, partition: str, params: Params) -> str:
    return EXTERNAL["state"]


STOP: dict[str, str] = {}
EXTERNAL = {"state": "a"}
SPEC = StageSpec(
    "numbers",
    "toy",
    "",
    run="tests.toy_stages:numbers",
    params="tests.toy_stages:Params",
    partitioned=True,
    external="tests.toy_stages:external",
)
TOTAL = StageSpec(
    "total", "toy", "", run="tests.toy_stages:total", params="tests.toy_stages:Params", upstream={"numbers": "all"}
)
EARLIER = StageSpec(
    "earlier",
    "toy",
    "",
    run="tests.toy_stages:total",
    params="tests.toy_stages:Params",
    upstream={"numbers": "earlier"},
    partitioned=True,
)
BOTH = StageSpec(
    "both",
    "toy",
    "",
    run="tests.toy_stages:total",
    params="tests.toy_stages:Params",
    upstream={"numbers": "all", "earlier": "all"},
)
