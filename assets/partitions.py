"""The one partitions definition: crawl batches, known to Dagster as they appear under the sources prefix.

It lives here and not in ``pipelines`` because assets and checks name it, and arrows point one way only.
"""

from __future__ import annotations

import dagster as dg

CRAWL_BATCHES = dg.DynamicPartitionsDefinition(name="crawl_batches")


def batches_in_run(context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext) -> list[str]:
    """The batches that a run is about: that of its partition tag, or those of its range."""
    op = getattr(context, "op_execution_context", context)
    return [op.partition_key] if op.has_partition_key else list(op.partition_keys)
