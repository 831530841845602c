"""The seam between a stage and whatever runs its shards: ``map(function, tasks) → summaries``.

A shard function is plain and idempotent: it takes one dictionary (paths and settings, never pixels), reads its
shard, writes its part files and returns a small dictionary. Done-markers on storage are the truth (``stage.py``
keeps them), so an engine may die at any time. Local processes are the default; cluster engines implement the
same protocol elsewhere.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from dinov2_core.errors import UserError

Task = Mapping[str, Any]
Summary = dict[str, Any]
ShardFunction = Callable[[Task], Summary]


@dataclass(frozen=True)
class Resources:
    """What one shard task needs. Engines that schedule read it; local processes ignore it."""

    cpus: float = 1.0
    gpus: float = 0.0
    memory: int = 0
    """bytes; 0 makes no claim"""


class QuarantineError(UserError):
    """Shards that kept failing were set aside; all others are done. ``reasons`` are by key."""

    reasons: Mapping[str, str] = {}

    @classmethod
    def of(cls, reasons: Mapping[str, str], *, left: int = 0) -> QuarantineError:
        """The error for ``reasons``, with ``left`` shards not tried because so many had failed."""
        shown = [f"{key} ({reason})" for key, reason in list(reasons.items())[:3]]
        more = f" and {len(reasons) - 3} more" if len(reasons) > 3 else ""
        rest = f"{left} were not tried any more" if left else "all others are done"
        error = cls(
            f"{len(reasons)} shards were set aside: {', '.join(shown)}{more}; {rest}",
            todo="mend what is named and run the same command again: it does these shards only",
        )
        error.reasons = dict(reasons)
        return error


class ShardMap(Protocol):
    """Anything that can run shard functions."""

    def map(
        self, function: ShardFunction, tasks: Sequence[Task], *, resources: Resources = ...
    ) -> Iterator[tuple[int, Summary]]:
        """Yield ``(index of the task, its summary)`` as tasks finish, in any order."""
        ...


@dataclass(frozen=True)
class InlineShardMap:
    """Runs tasks one after the other in this process: for tests, debugging and tiny inputs."""

    def map(
        self, function: ShardFunction, tasks: Sequence[Task], *, resources: Resources = Resources()
    ) -> Iterator[tuple[int, Summary]]:
        for index, task in enumerate(tasks):
            yield index, function(task)


@dataclass(frozen=True)
class ProcessShardMap:
    """Runs tasks on local processes, one thread each. The pool is shared by all stages of a program."""

    workers: int = 0
    """Number of processes; 0 means one a core."""

    def map(
        self, function: ShardFunction, tasks: Sequence[Task], *, resources: Resources = Resources()
    ) -> Iterator[tuple[int, Summary]]:
        workers = self.workers or os.cpu_count() or 1
        pool = _pool(workers)
        _import_this_package()
        waiting = iter(enumerate(tasks))
        running: dict[Future[Summary], int] = {}
        try:
            while True:
                # Bounded: a million tasks are not pickled at once.
                while len(running) < 2 * workers and (item := next(waiting, None)) is not None:
                    running[pool.submit(function, item[1])] = item[0]
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
        except BrokenProcessPool as error:
            _forget(workers)
            names = sorted(str(dict(tasks[i]).get("key", i)) for i in running.values())
            raise UserError(
                "a worker process died (out of memory, or killed)",
                where=f"one of the shards {', '.join(names)}",
                todo="run the same command again: finished shards are kept; fewer workers need less memory",
            ) from error
        finally:
            for future in running:
                future.cancel()


def is_local(engine: ShardMap) -> bool:
    """Whether an engine works on this machine alone."""
    return isinstance(engine, InlineShardMap | ProcessShardMap)


_pools: dict[int, ProcessPoolExecutor] = {}


def _pool(workers: int) -> ProcessPoolExecutor:
    if workers not in _pools:
        # Threads and fork do not mix; a fork server starts clean and forks quickly.
        context = multiprocessing.get_context("forkserver")
        _pools[workers] = ProcessPoolExecutor(
            workers, mp_context=context, initializer=_start_worker, initargs=(dict(os.environ),)
        )
    return _pools[workers]


def _import_this_package() -> None:
    # A model that was loaded from a registry leaves its copy of a part of this package at the head of the path, and
    # workers begin with the path of this program.
    package = Path(__file__).parent
    for number, place in enumerate(sys.path):
        found = Path(place) / package.name
        if found.is_dir():
            if not found.samefile(package):
                sys.path.insert(number, str(package.parent))
            return


def _forget(workers: int) -> None:
    _pools.pop(workers).shutdown(wait=False, cancel_futures=True)


@atexit.register
def close_pools() -> None:
    """End all worker processes (also registered to run at exit)."""
    for pool in _pools.values():
        pool.shutdown(wait=False, cancel_futures=True)
    _pools.clear()


def _start_worker(environment: dict[str, str]) -> None:
    # The fork server may be older than this program's settings: credentials, the folder of parts.
    os.environ.update(environment)
    # One thread a process: two processes with two threads each on two cores are slower than either.
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"
    threading.Thread(target=end_with_parent, daemon=True).start()


def end_with_parent() -> None:
    """Wait for the program that started this process to end, however it ends, then end too.

    A killed program cannot end its workers; idle for ever, they would keep their models in memory.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None, "runs in child processes only"
    parent.join()
    os._exit(1)
