"""Which engine runs shard functions: local processes by default, this process where asked, a cluster by its address."""

from __future__ import annotations

import os
from typing import Any

import dagster as dg

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
        job_cpus, job_gpus: what a job's own process asks for; GPUs for stages that train only.
    """

    workers: int = 0
    address: str = ""
    retries: int = 2
    job_folder: str = ""
    job_python: str = "python"
    job_cpus: float = 1.0
    job_gpus: float = 0.0

    @classmethod
    def from_environment(cls) -> Engine:
        """``DINOV2_WORKERS``, ``RAY_ADDRESS``, ``DINOV2_JOB_FOLDER`` and ``DINOV2_JOB_GPUS`` over the defaults."""
        return cls(
            workers=int(os.environ.get("DINOV2_WORKERS", "0")),
            address=os.environ.get("RAY_ADDRESS", ""),
            job_folder=os.environ.get("DINOV2_JOB_FOLDER", ""),
            job_gpus=float(os.environ.get("DINOV2_JOB_GPUS", "0")),
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
