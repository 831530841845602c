"""Unit costs of the data stages on one core, and bytes a row of their tables: what ``dinov2 plan`` multiplies.

Real photographs of 500 pixels (see ``input_pipeline.py``); every line is the median of some runs, in processor seconds.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable

import numpy as np
import pyarrow as pa
from PIL import Image

from benchmarks.input_pipeline import photos
from dinov2_core import tables
from dinov2_core.curation.image_index import to_text
from dinov2_core.curation.screening import Screen, ScreenRules
from dinov2_core.images.decode import Decoded, decode
from dinov2_core.images.shards import ShardWriter
from dinov2_core.storage import Store

ROWS = 100_000


def processor_seconds(work: Callable[[], object], runs: int) -> float:
    took = []
    for _ in range(runs):
        started = time.process_time()
        work()
        took.append(time.process_time() - started)
    return statistics.median(took)


def bytes_a_row(store: Store, name: str, schema: pa.Schema) -> float:
    """Of a Parquet part of ``ROWS`` random rows: ids, vectors and scores do not compress, which is the point."""
    rng = np.random.default_rng(0)

    def column(kind: pa.DataType) -> pa.Array:
        if pa.types.is_string(kind):
            return to_text(np.frombuffer(rng.bytes(32 * ROWS), "S32"))
        if pa.types.is_fixed_size_list(kind):
            flat = rng.standard_normal(ROWS * kind.list_size, dtype=np.float32).astype(np.float16)
            return pa.FixedSizeListArray.from_arrays(pa.array(flat), kind.list_size)
        if pa.types.is_binary(kind):
            return pa.array([rng.bytes(8) for _ in range(ROWS)])
        if pa.types.is_list(kind):
            return pa.array([[]] * ROWS, kind)
        if pa.types.is_boolean(kind):
            return pa.array(rng.random(ROWS) < 0.9)
        if pa.types.is_floating(kind):
            return pa.array(rng.random(ROWS, dtype=np.float32))
        return pa.array(rng.integers(0, 1 << 20, ROWS)).cast(kind)

    # Of the shard's name, the reason and the format there are few values a part.
    few = {"shard", "reason", "mode", "format", "status", "duplicate_of", "dataset", "source"}
    same = pa.array(["raw_crawl/b/shard-0123456789ab.tar"]).take(pa.array(np.zeros(ROWS, np.int64)))
    table = pa.table([same if f.name in few else column(f.type) for f in schema], schema=schema)
    return store.write_table(f"x/{name}.parquet", table).bytes / ROWS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=39)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    files = photos(options.images)
    screen = Screen(ScreenRules())

    def resized(side: int) -> None:
        for data in files:
            found = decode(data)
            assert isinstance(found, Decoded)
            Image.fromarray(found.pixels).resize((side, side), Image.Resampling.BILINEAR)

    print(f"{len(files)} photographs, {sum(map(len, files)) / len(files) / 1e3:.0f} kB each\n")
    print("| work | processor ms an image |\n|---|---|")
    for name, work in {
        "screening: decoding, hashes, quality, NSFW, faces": lambda: [screen.verdict(data) for data in files],
        "decoding and resizing to 224": lambda: resized(224),
        "decoding and resizing to 288": lambda: resized(288),
    }.items():
        print(f"| {name} | {1e3 * processor_seconds(work, options.runs) / len(files):.2f} |", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        many = [f"{number}".encode() + files[number % len(files)] for number in range(2000)]

        def pack() -> None:
            with ShardWriter(store, f"s{time.monotonic_ns()}") as writer:
                for data in many:
                    writer.add(data, "jpg")

        print(f"| packing into shards | {1e3 * processor_seconds(pack, options.runs) / len(many):.3f} |")
        print("\n| table | bytes a row |\n|---|---|")
        for name in (
            "images",
            "verdicts",
            "copy_embeddings",
            "edges",
            "components",
            "clusters",
            "selections",
            "packed",
        ):
            print(f"| {name} | {bytes_a_row(store, name, tables.SCHEMAS[name]):.0f} |", flush=True)
        print(f"| embeddings of 1024 | {bytes_a_row(store, 'embeddings', tables.schema('embeddings', dim=1024)):.0f} |")


if __name__ == "__main__":
    main()
