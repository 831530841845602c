"""Local processes: every task once, results joined to their task, a dead worker named."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from dinov2_core.errors import UserError
from dinov2_core.shard_map import InlineShardMap, ProcessShardMap, close_pools


def square(task: Any) -> dict[str, Any]:
    return {"square": task["n"] ** 2, "pid": os.getpid()}


def environment(task: Any) -> dict[str, Any]:
    return {"value": os.environ.get("DINOV2_TEST_SETTING")}


def die(task: Any) -> dict[str, Any]:
    if task["n"] == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return {}


def fail(task: Any) -> dict[str, Any]:
    raise UserError("no such model", where="filtered_set[b1]", todo="run `make parts`")


@pytest.mark.parametrize("engine", [InlineShardMap(), ProcessShardMap(2)])
def test_every_task_runs_once_and_results_are_joined(engine: Any) -> None:
    tasks = [{"n": n} for n in range(20)]
    results = dict(engine.map(square, tasks))
    assert {i: r["square"] for i, r in results.items()} == {n: n * n for n in range(20)}
    pids = {r["pid"] for r in results.values()}
    assert (os.getpid() in pids) is isinstance(engine, InlineShardMap)


def test_a_dead_worker_is_named_and_the_next_call_works() -> None:
    with pytest.raises(UserError, match=r"a worker process died.*run the same command again"):
        list(ProcessShardMap(2).map(die, [{"n": n, "key": f"{n:03d}"} for n in range(4)]))
    assert len(list(ProcessShardMap(2).map(square, [{"n": 1}]))) == 1


def test_new_workers_see_the_environment_as_it_is_now(monkeypatch: pytest.MonkeyPatch) -> None:
    list(ProcessShardMap(2).map(square, [{"n": 1}]))
    monkeypatch.setenv("DINOV2_TEST_SETTING", "late")
    close_pools()
    assert [r["value"] for _, r in ProcessShardMap(2).map(environment, [{}])] == ["late"]


def test_workers_end_when_their_program_is_killed() -> None:
    code = """
        import os, signal
        from dinov2_core.shard_map import ProcessShardMap
        from tests.test_shard_map import square
        for _, result in ProcessShardMap(1).map(square, [{"n": 1}]):
            print(result["pid"], flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    worker = int(ended.stdout)
    until = time.monotonic() + 20
    while time.monotonic() < until and Path(f"/proc/{worker}").exists():
        time.sleep(0.1)
    assert not Path(f"/proc/{worker}").exists()


def test_an_error_of_the_user_crosses_the_process_boundary_whole() -> None:
    with pytest.raises(UserError) as caught:
        list(ProcessShardMap(2).map(fail, [{}]))
    assert str(caught.value) == "filtered_set[b1]: no such model — run `make parts`"
    close_pools()


def test_workers_import_this_package_though_a_loaded_model_left_a_part_of_it_on_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dinov2_core").mkdir()
    (tmp_path / "dinov2_core/__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    close_pools()
    try:
        found = dict(ProcessShardMap(2).map(square, [{"n": n} for n in range(4)]))
    finally:
        close_pools()
    assert [found[n]["square"] for n in range(4)] == [0, 1, 4, 9]
