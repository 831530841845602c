"""Seconds and peak memory of the checks on the largest tables, each check in a process of its own.

The tables are made up, with every column filled and every reference met; suites and checks are the real ones, as
Dagster calls them. The claim: 10⁷ rows in less than two minutes and two gibibytes. ``import`` of Great Expectations is
told apart: a run pays for it once.
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
import pyarrow.compute as pc

from dinov2_core import manifest, tables
from dinov2_core.curation.image_index import to_text
from dinov2_core.manifest import WHOLE, Manifest
from dinov2_core.storage import FileRecord, Store

BATCHES = ("2026-01", "2026-02")
CHECKS = (
    ("raw_crawl", "images"),
    ("filtered_set", "verdicts"),
    ("copy_edges", "edges"),
    ("deduplicated_set", "components"),
    ("embeddings", "embeddings"),
)


def ids(batch: str, start: int, count: int) -> pa.Array:
    """The ids of a batch's images ``start … start + count``: random, and the same when asked again."""
    return to_text(np.frombuffer(np.random.default_rng([*batch.encode(), start]).bytes(32 * count), "S32"))


def chunks(rows: int, part: int) -> Iterator[tuple[int, int]]:
    for start in range(0, rows, part):
        yield start, min(part, rows - start)


def constant(value: object, count: int, kind: pa.DataType) -> pa.Array:
    return pa.repeat(pa.scalar(value, kind), count)


def fill(name: str, count: int, **columns: pa.Array) -> pa.Table:
    """A table of ``count`` rows: the given columns, plain values in the others."""
    plain = {pa.string(): "x", pa.bool_(): True, pa.binary(): b"12345678"}
    made = []
    for field in tables.schema(name):
        if field.name in columns:
            made.append(columns[field.name].cast(field.type))
        elif pa.types.is_list(field.type):
            made.append(pa.ListArray.from_arrays(np.zeros(count + 1, np.int32), pa.array([], field.type.value_type)))
        else:
            made.append(constant(plain.get(field.type, 1), count, field.type))
    return pa.table(made, schema=tables.schema(name))


def batch_tables(stage: str, batch: str, start: int, count: int, dim: int) -> pa.Table:
    """One part of a table."""
    own = ids(batch, start, count)
    rng = np.random.default_rng(start)
    empty = constant("", count, pa.string())
    if stage == "raw_crawl":
        numbers = pc.cast(pa.array(np.arange(start, start + count)), pa.string())
        urls = pc.binary_join_element_wise(f"https://example.org/{batch}", numbers, "picture-of-something.jpg", "/")
        stored = constant("stored", count, pa.string())
        return fill("images", count, image_id=own, url=urls, status=stored, reason=empty)
    if stage == "filtered_set":
        nsfw = pa.array(rng.random(count, np.float32) / 10)
        nothing = pa.nulls(count, pa.string())
        return fill("verdicts", count, image_id=own, reason=empty, nsfw=nsfw, pixel_sha256=own, duplicate_of=nothing)
    if stage == "copy_edges":
        a, b = own.to_numpy(zero_copy_only=False), np.roll(own.to_numpy(zero_copy_only=False), 1)
        ends = {"a": pa.array(np.minimum(a, b)), "b": pa.array(np.maximum(a, b))}
        return fill("edges", count, **ends, similarity=pa.array(rng.random(count, np.float32)))
    vectors = rng.standard_normal((count, dim), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    flat = pa.array(vectors.astype(np.float16).reshape(-1))
    return pa.table([own, pa.FixedSizeListArray.from_arrays(flat, dim)], schema=tables.schema("embeddings", dim=dim))


UPSTREAM = {
    "raw_crawl": [],
    "filtered_set": ["raw_crawl"],
    "copy_embeddings": ["filtered_set"],
    "copy_edges": ["copy_embeddings"],
    "embeddings": ["filtered_set"],
}
NAMES = {"raw_crawl": "images", "filtered_set": "verdicts", "copy_edges": "edges"}


def make(store: Store, stage: str, rows: int, part: int, dim: int) -> None:
    """What the check of ``stage`` reads: two batches that agree with each other, the first a tenth of the whole."""
    sizes = dict(zip(BATCHES, (rows // 10, rows - rows // 10), strict=True))
    if stage == "deduplicated_set":
        for batch, size in sizes.items():
            make_batch(store, "filtered_set", batch, size, part, dim)
        files = []
        for batch, size in sizes.items():
            for start, count in chunks(size, part):
                own = ids(batch, start, count)
                table = fill("components", count, image_id=own, component=own, reason=constant("", count, pa.string()))
                files.append(store.write_table(f"deduplicated_set/all/components-made-{len(files):05d}.parquet", table))
        upstream = {f"filtered_set/{b}": hash_of(store, "filtered_set", b) for b in BATCHES}
        finish(store, "deduplicated_set", WHOLE, files, upstream)
    else:
        for batch, size in sizes.items():
            make_batch(store, stage, batch, size, part, dim)


def make_batch(store: Store, stage: str, batch: str, size: int, part: int, dim: int) -> None:
    """A batch of a stage, after the batches that it refers to; what is there stays."""
    if manifest.read(store, stage, batch):
        return
    for read in UPSTREAM[stage]:
        make_batch(store, read, batch, size, part, dim)
    files = []
    for number, (start, count) in enumerate(chunks(size, part)):
        # The copy embeddings are only referred to here: narrow ones will do.
        table = batch_tables(stage, batch, start, count, 2 if stage == "copy_embeddings" else dim)
        path = f"{stage}/{batch}/{NAMES.get(stage, stage)}-made-{number:05d}.parquet"
        files.append(store.write_table(path, table))
    finish(store, stage, batch, files, {f"{r}/{batch}": hash_of(store, r, batch) for r in UPSTREAM[stage]})


def hash_of(store: Store, stage: str, partition: str) -> str:
    made = manifest.read(store, stage, partition)
    assert made is not None, "it was made before"
    return made.hash


def finish(store: Store, stage: str, partition: str, files: list[FileRecord], upstream: dict[str, str]) -> None:
    manifest.write(store, Manifest(stage, partition, "made-up", {}, upstream, tuple(files)))


def measure(root: str, stage: str, table: str) -> dict[str, object]:
    """Run a table's check, and the one beside earlier batches where it has one, in this process."""
    started = time.monotonic()
    import great_expectations  # noqa: F401

    from assets.drift import WATCHED, check_batches
    from assets.gates import check_table, made_batches

    imported = time.monotonic()
    idle = time.process_time()
    store = Store(root)
    versions = made_batches(store, stage, manifest.partitions(store, stage))
    result = check_table(store, stage, table, versions)
    whole = time.monotonic()
    processor = time.process_time()
    passed = result.passed and (
        (stage, table) not in WATCHED or check_batches(store, stage, table, versions).passed is not None
    )
    ended = time.monotonic()
    return {
        "table": f"{stage}.{table}",
        "rows": result.metadata["rows"].value,
        "passed": bool(passed),
        "description": result.description,
        "import_s": round(imported - started, 1),
        "check_s": round(whole - imported, 1),
        "processor_s": round(processor - idle, 1),
        "batches_s": round(ended - whole, 1),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--part", type=int, default=50_000, help="rows of a part file")
    parser.add_argument("--dim", type=int, default=384, help="width of the embeddings")
    parser.add_argument("--root", help="keep the tables here, and use those that are there")
    parser.add_argument("--table", help="of one table only, as STAGE.TABLE")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options.root, *options.table.split("."))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        root = options.root or temporary
        print(f"{'table':32}{'rows':>12}{'check':>9}{'of it CPU':>11}{'batches':>9}{'import':>9}{'peak':>11}")
        for stage, table in CHECKS:
            if options.table in (None, f"{stage}.{table}"):
                make(Store(root), stage, options.rows, options.part, options.dim)
                command = [
                    sys.executable,
                    "-m",
                    "benchmarks.gates",
                    "--child",
                    "--root",
                    root,
                    "--table",
                    f"{stage}.{table}",
                ]
                ended = subprocess.run(
                    command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1]
                )
                one = json.loads(ended.stdout.splitlines()[-1])
                spent = [f"{one[name]:.1f} s" for name in ("check_s", "processor_s", "batches_s", "import_s")]
                seconds = f"{spent[0]:>9}{spent[1]:>11}{spent[2]:>9}{spent[3]:>9}"
                print(f"{one['table']:32}{one['rows']:>12,}{seconds}{one['peak_mib']:>7} MiB", flush=True)
                if not one["passed"]:
                    raise SystemExit(f"{one['table']}: {one['description']}")


if __name__ == "__main__":
    main()
