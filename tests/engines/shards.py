"""Shard functions for the tests of engines. Each call leaves a line in a folder that the test reads."""

from __future__ import annotations

import functools
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from dinov2_core import stage
from dinov2_core.errors import UserError
from dinov2_core.stage import StageRun, StageSpec
from dinov2_core.storage import Store


def called(task: Any) -> int:
    """Note a call; how many calls of this shard there were before."""
    folder = Path(task["calls"])
    folder.mkdir(parents=True, exist_ok=True)
    before = len(list(folder.glob(f"{task['n']}-*")))
    (folder / f"{task['n']}-{before}-{os.getpid()}").touch()
    return before


def calls(folder: Path, n: int | str = "*") -> int:
    return len(list(folder.glob(f"{n}-*")))


def square(task: Any) -> dict[str, Any]:
    called(task)
    time.sleep(task.get("seconds", 0.0))
    return {"square": task["n"] ** 2, "pid": os.getpid(), "threads": os.environ["OMP_NUM_THREADS"]}


@functools.lru_cache(maxsize=1)
def _model(version: str) -> float:
    return time.time_ns() + os.getpid()


def with_model(task: Any) -> dict[str, Any]:
    time.sleep(0.05)
    return {"model": _model(task["version"]), "pid": os.getpid()}


def read_pixels(task: Any) -> dict[str, Any]:
    pixels = np.fromfile(task["shard"], np.uint8)
    return {"bytes": len(pixels), "mean": float(pixels.mean())}


def slow_at_first(task: Any) -> dict[str, Any]:
    if called(task) == 0 and task["n"] == task["slow"]:
        time.sleep(120)
    return {"n": task["n"]}


def dies(task: Any) -> dict[str, Any]:
    """Shard 1 takes its worker with it at the first call, shard 2 at every one."""
    before = called(task)
    if task["n"] == 2 or (task["n"] == 1 and before == 0):
        os.kill(os.getpid(), signal.SIGKILL)
    return {"n": task["n"]}


def greedy(task: Any) -> dict[str, Any]:
    """Shard 1 takes far too much memory: at its first call where ``once``, else at every one."""
    before = called(task)
    held = []
    if task["n"] == 1 and not (task["once"] and before):
        for _ in range(task["blocks"]):
            held.append(np.ones(1 << 25, np.float64))
            time.sleep(0.02)
        time.sleep(30)
    return {"n": task["n"]}


def no_such_model(task: Any) -> dict[str, Any]:
    called(task)
    raise UserError("no such model", where="filtered_set[b1]", todo="run `make parts`")


@dataclass(frozen=True)
class Params:
    shards: int = 6
    calls: str = stage.efficiency("")
    poison: str = stage.efficiency("")
    """a file; while it is there shard 3 raises"""
    seconds: float = stage.efficiency(0.0)


def write_numbers(task: Any) -> dict[str, Any]:
    called(task)
    time.sleep(task["seconds"])
    if task["n"] == 3 and os.path.exists(task["poison"]):
        raise ValueError("not enough pixels in row 7")
    table = pa.table({"value": pa.array([task["n"] ** 2], pa.int64())})
    record = Store(task["root"]).write_table(task["stem"].format(name="numbers") + ".parquet", table)
    return {"files": [record], "sum": task["n"] ** 2}


def run(run: StageRun) -> dict[str, Any]:
    p: Params = run.params
    own = {"calls": p.calls, "poison": p.poison, "seconds": p.seconds}
    done = run.map(write_numbers, {f"{n:05d}": {"n": n, **own} for n in range(p.shards)})
    return {"sum": sum(s["sum"] for s in done)}


SPEC = StageSpec("numbers", "toy", "", run="tests.engines.shards:run", params="tests.engines.shards:Params")
