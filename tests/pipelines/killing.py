"""Runs asset after asset as ``python -m pipelines.materialize`` does, and kills itself at chosen points inside each.

``python -m tests.pipelines.killing`` reads a plan from its input: a list of ``[assets, points]``. For each it runs the
command over these assets once a point, in a process of its own that sends itself SIGKILL there, and once more to the
end. The processes are forks, so that the imports are paid for once. Nothing of this is known to the product: a point
is a wrapper around ``Store.create``, around what a training tells, or around a call.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

Point = list[Any]
"""``["before" | "after", prefix, n]``: the n-th file whose path begins so, when all of it is written, but not yet under
its name, or when it is; ``["told", stage, n]``: the n-th thing that the stage's training tells;
``["called", "module:Class.name", n]``: after the n-th such call."""


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Counter:
    """Kills at the n-th time."""

    def __init__(self, n: int) -> None:
        self.left = n

    def __call__(self) -> None:
        self.left -= 1
        if self.left == 0:
            die()


def plant(point: Point) -> None:
    """Put a point into this process."""
    kind, what, n = point
    count = Counter(n)
    if kind in ("before", "after"):
        _plant_in_files(what, count, before=kind == "before")
    elif kind == "told":
        _plant_in_what_is_told(what, count)
    elif kind == "called":
        _plant_behind_a_call(what, count)
    else:
        raise ValueError(kind)


def _plant_in_files(prefix: str, count: Counter, *, before: bool) -> None:
    from dinov2_core.storage import Store

    plain = Store.create

    @contextlib.contextmanager
    def create(self: Store, path: str, *, exclusive: bool = False) -> Iterator[Any]:
        with plain(self, path, exclusive=exclusive) as file:
            yield file
            if before and path.startswith(prefix):
                count()
        if not before and path.startswith(prefix):
            count()

    Store.create = create  # type: ignore[method-assign]


def _plant_in_what_is_told(stage: str, count: Counter) -> None:
    from pipelines.resources import mlflow_trainings

    plain = mlflow_trainings._metrics

    def told(write: Any, step: int, metrics: Any) -> None:
        plain(write, step, metrics)
        if write.spool.stage.startswith(stage):
            count()

    mlflow_trainings._metrics = told


def _plant_behind_a_call(name: str, count: Counter) -> None:
    module, _, path = name.partition(":")
    *owners, last = path.split(".")
    owner = functools.reduce(getattr, owners, importlib.import_module(module))
    plain: Callable[..., Any] = getattr(owner, last)

    @functools.wraps(plain)
    def called(*args: Any, **rest: Any) -> Any:
        result = plain(*args, **rest)
        count()
        return result

    setattr(owner, last, called)


def run(assets: list[str], point: Point | None) -> int:
    """Run the command in a process of its own; its exit code, or less a signal's number."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            if point is not None:
                plant(point)
            from pipelines import materialize

            code = materialize.main(assets)
        except BaseException:  # noqa: BLE001 - a fork must never go on with its parent's work
            traceback.print_exc()
        finally:
            logging.shutdown()
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main() -> int:
    """Follow the plan; one line a run. 1 where a point was never reached or the last run failed."""
    for name in ("mlflow.pyfunc", "torch", "torchvision", "faiss", "great_expectations", "pipelines.definitions"):
        importlib.import_module(name)
    for assets, points in json.load(sys.stdin):
        for point in [*points, None]:
            started = time.monotonic()
            code = run(assets, point)
            wanted = 0 if point is None else -signal.SIGKILL
            print(f"{time.monotonic() - started:5.1f} s  {' '.join(assets)}  {point}  {code}", flush=True)
            if code != wanted:
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
