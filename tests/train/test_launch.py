"""Joining again after a loss: the agent's store outlives the processes, what they left in it must not lead astray."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import timedelta

import pytest
from torch.distributed import TCPStore

JOIN = """
import sys
import torch
import torch.distributed as dist
from dinov2_core.train import launch
with launch.joined() as process:
    value = torch.tensor([float(process.rank + 1)])
    dist.all_reduce(value)
    print(int(value), flush=True)
    sys.stdin.read(1)
"""


@pytest.fixture
def store() -> TCPStore:
    """What torchrun's agent keeps for the processes that it starts."""
    return TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60))


def start(store: TCPStore, rank: int, restarts: int) -> subprocess.Popen[str]:
    about = {"RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": store.port}
    about |= {"TORCHELASTIC_USE_AGENT_STORE": True, "TORCHELASTIC_RESTART_COUNT": restarts, "OMP_NUM_THREADS": 1}
    env = os.environ | {name: str(value) for name, value in about.items()}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", JOIN], env=env, **pipes)  # type: ignore[call-overload, no-any-return]


@pytest.mark.slow
def test_processes_that_are_started_again_find_each_other_and_not_the_lost_ones(store: TCPStore) -> None:
    lost = [start(store, rank, 0) for rank in (0, 1)]
    assert [process.stdout.readline() for process in lost if process.stdout] == ["3\n", "3\n"]
    for process in lost:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    # The second comes when the first has long looked for it.
    first = start(store, 0, 1)
    with pytest.raises(subprocess.TimeoutExpired):
        first.wait(8)
    again = [first, start(store, 1, 1)]
    assert [process.communicate("x", timeout=60)[0] for process in again] == ["3\n", "3\n"]
    assert [process.returncode for process in again] == [0, 0]
