"""Writing the state of all processes into one folder beside the training, through torch's distributed checkpoint.

The planning is collective and happens at once; the writing is not, so that no thread's collectives ever meet those of
the training. Processes tell each other that they have written by files in the folder, which they share anyway. Shards
are safetensors: what is read back is data and never a program. Names, rotation and reading are ``checkpoint``'s.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
from torch.distributed.checkpoint.planner import SavePlan
from torch.distributed.checkpoint.staging import BlockingAsyncStager

from dinov2_core.losses.distributed import world_size

PATIENCE_S = 1800.0
"""How long the first process waits for the others' files; one that died cannot be waited for for ever."""
_DONE = "written-{rank:05d}.json"


def start(
    executor: ThreadPoolExecutor, tensors: dict[str, Tensor], folder: Path, whole: Callable[[], None]
) -> Future[None]:
    """Copy ``tensors`` to the CPU and begin to write them; the tensors may change as soon as this returns.

    All processes that train together call it, at the same place; ``folder`` is there, empty and shared by them.

    Args:
        whole: what the first process does when all have written; it runs in the thread.

    Returns:
        A future for this process's part; the first one's comes when ``whole`` has returned.
    """
    rank, world = (dist.get_rank(), world_size()) if world_size() > 1 else (0, 1)
    planner = DefaultSavePlanner()
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    # The planner decides who writes what is not sharded; every process makes the whole plan and takes its part.
    planner.set_up_planner(BlockingAsyncStager().stage(tensors), is_coordinator=True)
    writer.set_up_storage_writer(True)
    plans, _ = planner.create_global_plan(_gathered(planner.create_local_plan(), world))
    plan = planner.finish_plan(writer.prepare_global_plan(plans)[rank])

    def work() -> None:
        problem = ""
        try:
            writer.write_data(plan, planner).wait()
        except Exception as error:
            problem = str(error) or type(error).__name__
            raise
        finally:
            _put(folder / _DONE.format(rank=rank), problem)
        if rank == 0:
            for other in range(world):
                _await(folder / _DONE.format(rank=other))
            whole()

    return executor.submit(work)


def _gathered(plan: SavePlan, world: int) -> list[SavePlan]:
    if world == 1:
        return [plan]
    plans: list[SavePlan] = [plan] * world
    dist.all_gather_object(plans, plan)
    return plans


def _put(path: Path, problem: str) -> None:
    # Renamed into place: nobody reads half of it.
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps({"problem": problem}))
    temporary.replace(path)


def _await(path: Path) -> None:
    """Wait for another process's word and remove it."""
    until = time.monotonic() + PATIENCE_S
    while not path.exists():
        if time.monotonic() > until:
            raise TimeoutError(f"another process has not written its part of the checkpoint: no {path}")
        time.sleep(0.02)
    problem = json.loads(path.read_text())["problem"]
    if problem:
        raise OSError(f"another process could not write its part of the checkpoint: {problem}")
    path.unlink()
