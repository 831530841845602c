"""Which engine runs shard functions: local processes by default, this process where asked, a cluster by its address."""

from __future__ import annotations

import os
from typing import Any

import dagster as dg

from dinov2_core.launcher import InProcess, Launcher
from dinov2_core.shard_map import InlineShardMap, ProcessShardMap, ShardMap
from dinov2_core.stage import Materialised


class Engine(dg.ConfigurableResource):
    """Where the work is done.

    Args:
        workers: local processes (0 = one a core); −1 runs shards in this process. On a cluster 0 takes what there is.
        address: of a Ray cluster; empty for local processes. ``auto`` or ``HOST:PORT`` joins it, from one of its
            machines; ``http://HOST:8265`` has each stage run there as a job.
        retries: how often a shard is tried again whose worker died or that raised; clusters only.
        job_folder, job_python: of jobs: where the checkout is on the cluster's machines, and the interpreter.
        train_processes: how many processes a stage's training is shared by: on this machine, or on the cluster that
            ``address`` joins, there also ``FEWEST:MOST``. ``train_gpus``, ``train_cpus``: of each there.
        job_cpus, job_gpus: what a job's own process asks for; GPUs for stages that train only.
    """

    workers: int = 0
    address: str = ""
    retries: int = 2
    job_folder: str = ""
    job_python: str = "python"
    job_cpus: float = 1.0
    job_gpus: float = 0.0
    train_processes: str = "1"
    train_gpus: float = 0.0
    train_cpus: float = 1.0

    @classmethod
    def from_environment(cls) -> Engine:
        """``RAY_ADDRESS`` and ``DINOV2_`` with ``WORKERS``, ``JOB_FOLDER``, ``JOB_GPUS``, ``TRAIN_PROCESSES``,
        ``TRAIN_GPUS`` or ``TRAIN_CPUS`` over the defaults."""
        return cls(
            workers=int(os.environ.get("DINOV2_WORKERS", "0")),
            address=os.environ.get("RAY_ADDRESS", ""),
            job_folder=os.environ.get("DINOV2_JOB_FOLDER", ""),
            job_gpus=float(os.environ.get("DINOV2_JOB_GPUS", "0")),
            train_processes=os.environ.get("DINOV2_TRAIN_PROCESSES", "1"),
            train_gpus=float(os.environ.get("DINOV2_TRAIN_GPUS", "0")),
            train_cpus=float(os.environ.get("DINOV2_TRAIN_CPUS", "1")),
        )

    @property
    def by_jobs(self) -> bool:
        """Whether stages run as jobs on a cluster, which this program does not join."""
        return self.address.startswith(("http://", "https://"))

    def shard_map(self) -> ShardMap:
        if self.workers < 0:
            return InlineShardMap()
        if not self.address or self.by_jobs:
            return ProcessShardMap(self.workers)
        from pipelines.engines.ray_shard_map import RayShardMap

        return RayShardMap(self.address, self.workers, self.retries)

    def launcher(self) -> Launcher:
        """Who starts the processes of a stage's training: this one alone unless told otherwise.

        Raises:
            UserError: the setting is no number of processes.
        """
        if self.train_processes == "1":
            return InProcess()
        from pipelines.pretrain import launcher_of

        address = "" if self.by_jobs else self.address
        return launcher_of(
            self.train_processes, address, self.train_gpus, self.train_cpus, where="DINOV2_TRAIN_PROCESSES"
        )

    def submit(
        self, lake: Any, stage: str, partition: str, *, verify: bool = False, tracked: bool = False, run_id: str = ""
    ) -> Materialised:
        """Have the partition brought up to date by a job on the cluster, and wait; ``tracked`` for stages that train.

        Raises:
            UserError: what ended the job, as if it had run here.
        """
        from pipelines.launchers.job_messages import Request
        from pipelines.launchers.ray_job import RayJobs

        jobs = RayJobs(
            self.address, folder=self.job_folder, python=self.job_python, cpus=self.job_cpus, gpus=self.job_gpus
        )
        root = lake.data_root if "://" in lake.data_root else os.path.abspath(lake.data_root)
        return jobs.materialise(Request(root, stage, partition, lake.params(stage), verify, tracked, run_id))
