"""Connected components over edges streamed from Parquet: seconds and peak memory at the size of a large crawl.

The graph has the shape of copies on the web: groups whose sizes fall off as a power law, their members scattered over
the whole pool. The true components are known from its making, so the answer is checked as well.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dinov2_core.curation.components import connected_components

BLOCK = 4_000_000


def scattered(groups: np.ndarray, nodes: int) -> np.ndarray:
    """Group-ordered positions to node numbers, by an invertible map that needs no table."""
    return (groups * 7_368_787 + 11) % nodes


def write(path: Path, nodes: int, edges: int) -> None:
    """Groups are runs of positions; each edge joins a position to another one of its group."""
    rng = np.random.default_rng(0)
    sizes = np.minimum(rng.zipf(1.7, nodes), 10_000)
    ends = np.minimum(np.cumsum(sizes), nodes)
    ends = ends[: int(np.searchsorted(ends, nodes)) + 1]
    np.save(path.with_suffix(".ends.npy"), ends)
    schema = pa.schema([("a", pa.int32()), ("b", pa.int32())])
    chain = np.setdiff1d(np.arange(nodes - 1), ends - 1, assume_unique=True)
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, edges, BLOCK):
            # First a chain through every group, so that groups are whole; then edges between any two of its members.
            ones = chain[start : start + BLOCK]
            twos = ones + 1
            more = min(BLOCK, edges - start) - len(ones)
            if more > 0:
                at = rng.integers(0, nodes, more)
                group = np.searchsorted(ends, at, side="right")
                first = np.concatenate([[0], ends])[group]
                other = first + (rng.random(more) * (ends[group] - first)).astype(np.int64)
                ones, twos = np.concatenate([ones, at]), np.concatenate([twos, other])
            columns = [pa.array(scattered(x, nodes).astype(np.int32)) for x in (ones, twos)]
            writer.write_table(pa.table(columns, schema=schema))


def stream(path: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for batch in pq.ParquetFile(path).iter_batches(1 << 20):
        yield batch.column(0).to_numpy(), batch.column(1).to_numpy()


def measure(path: Path, nodes: int) -> None:
    """Run in a process of its own, whose peak memory is printed."""
    started = time.perf_counter(), time.process_time()
    labels = connected_components(nodes, stream(path))
    wall, processor = time.perf_counter() - started[0], time.process_time() - started[1]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    ends = np.load(path.with_suffix(".ends.npy"))
    own = labels[scattered(np.arange(nodes), nodes)]
    first = np.concatenate([[0], ends[:-1]])
    whole = np.array_equal(np.maximum.reduceat(own, first), np.minimum.reduceat(own, first))
    apart = len(np.unique(own[first])) == len(first)
    print(json.dumps({"seconds": wall, "cpu": processor, "peak": peak, "groups": len(ends), "right": whole and apart}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=20_000_000)
    parser.add_argument("--edges", type=int, default=100_000_000)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(Path(options.measure), options.nodes)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "edges.parquet"
        write(path, options.nodes, options.edges)
        command = [sys.executable, __file__, "--nodes", str(options.nodes), "--measure", str(path)]
        found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        size = path.stat().st_size / 2**30
    print("| nodes | edges | on disk | components | seconds | processor seconds | peak memory | right |")
    print("|---|---|---|---|---|---|---|---|")
    print(
        f"| {options.nodes:,} | {options.edges:,} | {size:.2f} GiB | {found['groups']:,} | {found['seconds']:.1f} "
        f"| {found['cpu']:.1f} | {found['peak']:.2f} GiB | {'yes' if found['right'] else 'NO'} |"
    )


if __name__ == "__main__":
    main()
