"""The one partitions definition: crawl batches, known to Dagster as they appear under the sources prefix.

It lives here and not in ``pipelines`` because assets and checks name it, and arrows point one way only.
"""

from __future__ import annotations

import dagster as dg

CRAWL_BATCHES = dg.DynamicPartitionsDefinition(name="crawl_batches")


def batches_in_run(context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext, found: list[str]) -> list[str]:
    """The batches a run is about: those of its partition tag, or every batch ``found`` where it has none."""
    op = getattr(context, "op_execution_context", context)
    if op.has_partition_key:
        return [op.partition_key]
    if op.has_partition_key_range:
        return list(op.partition_keys)
    return found
