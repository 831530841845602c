"""Which engine runs shard functions: local processes by default, this process where asked."""

from __future__ import annotations

import os

import dagster as dg

from dinov2_core.shard_map import InlineShardMap, ProcessShardMap, ShardMap


class Engine(dg.ConfigurableResource):
    """``workers``: local processes (0 = one a core); -1 runs shards in this process."""

    workers: int = 0

    @classmethod
    def from_environment(cls) -> Engine:
        return cls(workers=int(os.environ.get("DINOV2_WORKERS", "0")))

    def shard_map(self) -> ShardMap:
        return InlineShardMap() if self.workers < 0 else ProcessShardMap(self.workers)
