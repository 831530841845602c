"""Starting the processes of a training on the machines of a Ray cluster. See ``launcher`` for what a launcher does."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from dinov2_core.errors import UserError
from dinov2_core.launcher import Function
from pipelines.engines import ray_pool, ray_worker
from pipelines.launchers.launcher import died


@dataclass(frozen=True)
class RayTrain:
    """``processes`` on whatever machines of the cluster at ``address`` have room, by Ray Train.

    Args:
        processes: how many; or the fewest and the most, and after a loss the training goes on with what is left.
            Which numbers can share a batch, and that sums over other numbers are rounded otherwise, is the trainer's.
        gpus, cpus: of each process.
        restarts: how often lost processes are started again.
    """

    processes: int | tuple[int, int]
    address: str = "auto"
    cpus: float = 1.0
    gpus: float = 0.0
    restarts: int = 3
    one_machine: ClassVar[bool] = False

    def run(self, function: Function, argument: Any) -> Any:
        # Read where Ray Train is first imported.
        os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
        ray_pool.connect(self.address)
        ray_pool.close_pools()  # workers that wait for shards hold cores and GPUs
        import ray
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
        from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError

        given = {
            "function": function,
            "argument": argument,
            "environment": ray_worker.environment(),
            "folder": os.getcwd(),
            "result": ray.remote(_Result).options(num_cpus=0).remote(),
        }
        with tempfile.TemporaryDirectory() as folder:
            trainer = DataParallelTrainer(
                _called,
                train_loop_config=given,
                scaling_config=ScalingConfig(
                    num_workers=self.processes,
                    use_gpu=self.gpus > 0,
                    resources_per_worker={"CPU": self.cpus, "GPU": self.gpus},
                    placement_strategy="PACK",
                ),
                run_config=RunConfig(
                    name="training", storage_path=folder, failure_config=FailureConfig(max_failures=self.restarts)
                ),
            )
            try:
                trainer.fit()
            except TrainingFailedError as error:
                failures = error.worker_failures if isinstance(error, WorkerGroupError) else {}
                known = ray.get(given["result"].get.remote())[1]
                raise known or died(self.restarts, next(iter(failures.values()), error)) from error
        result, stopped = ray.get(given["result"].get.remote())
        if stopped is not None:
            raise stopped
        return result


class _Result:
    """An actor that holds what the first process returned, or what ended the training for good."""

    def __init__(self) -> None:
        self._kept: tuple[Any, Any] = (None, None)

    def put(self, result: Any, stopped: Exception | None) -> None:
        if self._kept[1] is None:
            self._kept = (result, stopped)

    def get(self) -> tuple[Any, Any]:
        return self._kept


def _called(given: Mapping[str, Any]) -> None:
    """Runs in every process: tells it its place, as torchrun would, and calls the function."""
    import ray
    from ray import train
    from ray.train.collective import broadcast_from_rank_zero

    from dinov2_core.train.preemption import Preempted

    place = train.get_context()
    address = broadcast_from_rank_zero((ray.util.get_node_ip_address(), _free_port()))
    os.environ.update(given["environment"])
    os.environ.update(
        RANK=str(place.get_world_rank()),
        WORLD_SIZE=str(place.get_world_size()),
        LOCAL_RANK=str(place.get_local_rank()),
        LOCAL_WORLD_SIZE=str(place.get_local_world_size()),
        MASTER_ADDR=address[0],
        MASTER_PORT=str(address[1]),
    )
    if os.path.isdir(given["folder"]):
        os.chdir(given["folder"])
    kept = given["result"]
    if ray.get(kept.get.remote())[1] is not None:
        return  # it would end as before
    try:
        result = given["function"](given["argument"])
    except (UserError, Preempted) as stopped:
        # Raised here it would count as a loss, and all would start again.
        ray.get(kept.put.remote(None, stopped))
        return
    if place.get_world_rank() == 0:
        ray.get(kept.put.remote(result, None))


def _free_port() -> int:
    with socket.socket() as some:
        some.bind(("", 0))
        return int(some.getsockname()[1])
