"""How fast shards are read from an S3 server on loopback, beside the local disk: whole shards, and single images.

Both hold the same shards. The server (SeaweedFS) shares the cores with the reader, so its figures are a lower bound of
what a reader can take in, and say nothing of a network's latency. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from dinov2_core.images.index import ImageIndex, index_table
from dinov2_core.images.shards import ShardWriter, read_images
from dinov2_core.storage import Store
from tests.weed import BUCKET, Weed, environment

BATCH = 64


def rate(work: Callable[[], int], repeats: int) -> tuple[float, float]:
    """``(images a second, MB a second)``: the best of ``repeats``; ``work`` returns bytes read."""
    best, size = float("inf"), 0
    for _ in range(repeats):
        started = time.perf_counter()
        size = work()
        best = min(best, time.perf_counter() - started)
    return best, size / best / 1e6


def fill(store: Store, images: int, kilobytes: int, a_shard: int) -> list[dict[str, object]]:
    rng = np.random.default_rng(0)
    with ShardWriter(store, "shards", max_images=a_shard) as writer:
        for _ in range(images):
            writer.add(rng.bytes(int(kilobytes * 1024 * rng.uniform(0.5, 1.5))), "jpg")
    return [{"image_id": name, **at} for name, at in sorted(writer.locations.items(), key=lambda row: _place(row[1]))]


def _place(at: dict[str, object]) -> tuple[str, int]:
    return str(at["shard"]), int(str(at["offset"]))


def measure(name: str, store: Store, options: argparse.Namespace) -> list[str]:
    import pyarrow as pa

    started = time.perf_counter()
    rows = fill(store, options.images, options.kilobytes, options.shard)
    written = sum(int(str(row["length"])) for row in rows) / (time.perf_counter() - started) / 1e6
    with tempfile.TemporaryDirectory() as folder:
        index = index_table(Path(folder), store, pa.Table.from_pylist(rows))
        order = np.random.default_rng(1).permutation(len(index))
        whole = rate(lambda: sum(len(data) for data in read_images(store, rows)), options.repeats)
        single = rate(lambda: _single(index, order), options.repeats)
        batches = rate(lambda: _batches(index, order), options.repeats)
    return [
        f"| {name} | {what} | {len(rows) / seconds:.0f} | {megabytes:.0f} |"
        for what, (seconds, megabytes) in (
            ("in order, shard by shard", whole),
            ("in random order, one after the other", single),
            (f"in random order, {BATCH} at a time", batches),
        )
    ] + [f"| {name} | writing (hashing and random numbers included) | | {written:.0f} |"]


def _single(index: ImageIndex, order: np.ndarray) -> int:
    return sum(len(index.read([int(i)])[0]) for i in order)


def _batches(index: ImageIndex, order: np.ndarray) -> int:
    parts = (order[start : start + BATCH].tolist() for start in range(0, len(order), BATCH))
    return sum(len(data) for part in parts for data in index.read(part))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--kilobytes", type=int, default=100, help="mean size of an image")
    parser.add_argument("--shard", type=int, default=500, help="images a shard")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    print(f"{options.images} images of {options.kilobytes} KB, {options.shard} a shard; {os.cpu_count()} cores\n")
    print("| store | reading | images/s | MB/s |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for line in measure("local disk", Store(f"{folder}/lake"), options):
            print(line)
        server = Weed(Path(folder))
        server.start()
        try:
            with environment(server.env):
                for line in measure("S3 on loopback", Store(f"s3://{BUCKET}/lake"), options):
                    print(line)
        finally:
            server.stop()


if __name__ == "__main__":
    main()
