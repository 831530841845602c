"""The steps over the whole pool on made-up tables of 10^6 to 10^8 rows: time and memory against rows, with exponents.

Every step and size runs in a process of its own on one thread; making the tables is not measured. The exponent is the
slope of a straight line through the logarithms of processor time and rows, and must stay at or under 1.1. Memory is
what the process holds beyond its imports, compared with a bound of so many bytes a row. ``memory.py`` measures whole
stages; here it is the algorithms, at sizes where whole stages would take days of two cores.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.watched import watched
from dinov2_core import manifest, tables
from dinov2_core.curation.image_index import to_text
from dinov2_core.manifest import Manifest
from dinov2_core.storage import FileRecord, Store

BLOCK = 1_000_000
SHARD, BATCH = 10_000, 10_000
"""Images a shard, and rows a crawl batch in the two steps that count batches: 10^8 rows are 10^4 batches."""
SEEDS, CLUSTERS = 100_000, 10_000
LIMIT = 1.1
FIXED = 256 << 20
LEAST = 0.1
"""Processor seconds and hundreds of MiB below which a point says more about start-up than about growth."""

Work = Callable[[], bool]
"""What is measured; returns whether its answer was right."""


@dataclass(frozen=True)
class Step:
    """``prepare(rows, folder)`` makes the inputs and returns what is measured; ``bytes_a_row`` bounds its memory."""

    prepare: Callable[[int, Path], Work]
    bytes_a_row: float
    what: str


def scattered(positions: np.ndarray, rows: int) -> np.ndarray:
    """Positions to node numbers by an invertible map that needs no table."""
    return (positions * 7_368_787 + 11) % rows


def components(rows: int, folder: Path) -> Work:
    """Chains of one to eight copies, scattered over the pool, and as many edges again inside of them."""
    from dinov2_core.curation.components import connected_components

    def edges() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start in range(0, rows, BLOCK):
            at = np.arange(start, min(start + BLOCK, rows))
            for step in (1, 2):
                other = np.minimum(at + step, at - at % 8 + at // 8 % 8)
                own = at[(other > at) & (other < rows)]
                yield scattered(own, rows), scattered(other[(other > at) & (other < rows)], rows)

    def work() -> bool:
        labels = connected_components(rows, edges())
        groups = int((labels == np.arange(rows, dtype=labels.dtype)).sum())
        # In eight positions of block b the first 1 + b mod 8 hang together.
        whole = np.arange(rows // 8) % 8 + 1
        return rows % 8 != 0 or groups == int((8 - whole + 1).sum())

    return work


def selection(rows: int, folder: Path) -> Work:
    """The paper's cluster rule for one seed set, and the mix of three draws."""
    from dinov2_core.curation.retrieval import cluster_based
    from dinov2_core.curation.selection import mix

    rng = np.random.default_rng(0)
    names = np.memmap(folder / "names", "S32", "w+", shape=(rows,))
    for start in range(0, rows, BLOCK):
        count = min(BLOCK, rows - start)
        names[start : start + count] = np.frombuffer(rng.bytes(32 * count), "S32")
    pool = rng.integers(0, CLUSTERS, rows, dtype=np.int32)
    cosine = rng.random(rows, dtype=np.float32)
    seeds = rng.integers(0, CLUSTERS // 10, SEEDS)
    others = [rng.integers(0, rows, rows // 20) for _ in range(2)]

    def work() -> bool:
        drawn = cluster_based(seeds, pool, cosine, cap=rows)
        chosen, number = mix([*others, drawn.pool], names)
        wanted = np.unique(np.concatenate([*others, drawn.pool]))
        return len(chosen) == len(wanted) and number.max() == 2

    return work


def balanced(rows: int, folder: Path) -> Work:
    """A tenth of the pool drawn evenly from a tree of two levels, its leaves filled by a power law."""
    from dinov2_core.curation.balanced import balanced_sample

    rng = np.random.default_rng(0)
    leaves = (CLUSTERS * rng.random(rows, dtype=np.float32) ** 3).astype(np.int32)
    parents = rng.integers(0, CLUSTERS // 100, CLUSTERS)

    def work() -> bool:
        drawn = balanced_sample([leaves, parents], rows // 10)
        return len(drawn) == rows // 10 and bool((np.diff(drawn) > 0).all())

    return work


def manifests(rows: int, folder: Path) -> Work:
    """A manifest a batch, each with a shard and three tables, written, listed, and read by the whole-pool stage."""
    store, count = Store(str(folder)), math.ceil(rows / BATCH)
    names = [f"batch-{number:06d}" for number in range(count)]

    def files(partition: str) -> tuple[FileRecord, ...]:
        kinds = ("shard-{}.tar", "images-x-{}.parquet", "verdicts-x-{}.parquet", "embeddings-x-{}.parquet")
        paths = [f"filtered_set/{partition}/{kind.format('0' * 12)}" for kind in kinds]
        return tuple(FileRecord(path, 10**9, "0" * 64, BATCH) for path in paths)

    def work() -> bool:
        for name in names:
            manifest.write(store, Manifest("filtered_set", name, "x", {"seed": 0}, {}, files(name)))
        found = manifest.partitions(store, "filtered_set")
        read = {name: manifest.read(store, "filtered_set", name) for name in found}
        upstream = {f"filtered_set/{name}": made.hash for name, made in read.items() if made}
        pool = Manifest("deduplicated_set", manifest.WHOLE, "x", {}, upstream, files("all"))
        manifest.write(store, pool)
        made = manifest.read(store, "deduplicated_set")
        return made is not None and made.hash == pool.hash and len(made.upstream) == count

    return work


def gates(rows: int, folder: Path) -> Work:
    """The suite of the components table, references to the filtered set included, judged by Great Expectations."""
    from assets.gates import judge
    from assets.suites import SUITES
    from dinov2_core.gates import table_summary

    store, rng = Store(str(folder)), np.random.default_rng(0)
    verdicts: dict[str, str] = {}
    parts = []
    for number, start in enumerate(range(0, rows, BLOCK)):
        count = min(BLOCK, rows - start)
        ids = np.frombuffer(rng.bytes(32 * count), "S32")
        place = {
            "shard": fill("raw_crawl/b/shard.tar", count),
            "offset": numbers(0, count),
            "length": numbers(9, count),
        }
        own = {"image_id": to_text(ids), "keep": pa.array(np.ones(count, bool)), "reason": fill("", count), **place}
        batch = f"batch-{number:04d}"
        file = store.write_table(f"filtered_set/{batch}/verdicts-x-00000.parquet", whole(own, tables.VERDICTS, count))
        made = Manifest("filtered_set", batch, "x", {}, {}, (file,))
        manifest.write(store, made)
        verdicts[made.key] = made.hash
        table = whole({**own, "component": own["image_id"], "size": numbers(1, count)}, tables.COMPONENTS, count)
        parts.append(store.write_table(f"deduplicated_set/all/components-x-{number:05d}.parquet", table))
    manifest.write(store, Manifest("deduplicated_set", manifest.WHOLE, "x", {}, verdicts, tuple(parts)))

    def work() -> bool:
        suite = SUITES["deduplicated_set", "components"]
        found = table_summary.summarise(store, "deduplicated_set", "components", [manifest.WHOLE], suite)
        return found.rows == rows and all(o.success for o in judge(found.findings, found.parts, name="simulated"))

    return work


def fill(value: str, count: int) -> pa.Array:
    return pa.array([value]).take(pa.array(np.zeros(count, np.int64)))


def numbers(value: int, count: int) -> pa.Array:
    return pa.array(np.full(count, value, np.int64))


def whole(columns: dict[str, Any], schema: pa.Schema, count: int) -> pa.Table:
    return pa.table([columns.get(f.name, pa.nulls(count, f.type)).cast(f.type) for f in schema], schema=schema)


def partitions(rows: int, folder: Path) -> Work:
    """Dagster knows every batch, a materialisation of each, and says which are missing."""
    import dagster as dg
    from dagster._core.definitions.partitions.context import partition_loading_context  # of no public name yet

    from pipelines.definitions import defs

    instance = dg.DagsterInstance.local_temp(str(folder))
    names = [f"batch-{number:06d}" for number in range(math.ceil(rows / BATCH))]
    key = dg.AssetKey("raw_crawl")
    defined = defs.resolve_asset_graph().get(key).partitions_def
    assert isinstance(defined, dg.DynamicPartitionsDefinition)

    def work() -> bool:
        instance.add_dynamic_partitions(str(defined.name), names)
        for name in names[:-1]:
            instance.report_runless_asset_event(dg.AssetMaterialization(key, partition=name, tags={"version": name}))
        with partition_loading_context(dynamic_partitions_store=instance):
            known = defined.get_partition_keys()
            spanned = defined.get_partition_keys_in_range(dg.PartitionKeyRange(names[0], names[-1]))
        made = instance.get_materialized_partitions(key)
        return set(known) - made == {names[-1]} and len(spanned) == len(names)

    return work


STEPS: dict[str, Step] = {
    "components": Step(components, 16, "union-find over two edges a row"),
    "selection": Step(selection, 64, "cluster rule, and the mix of three draws"),
    "balanced": Step(balanced, 48, "a tenth of the pool, evenly from 10,000 clusters"),
    "manifests": Step(manifests, 16, "one a batch of 10,000 rows"),
    "gates": Step(gates, 64, "Great Expectations suite of the components table"),
    "partitions": Step(partitions, 64, "Dagster, one a batch of 10,000 rows"),
}


def measure(name: str, rows: int, folder: Path) -> dict[str, Any]:
    """Run one step on ``rows`` rows in this process: seconds, processor seconds, bytes beyond what was there before."""
    right, taken = watched(STEPS[name].prepare(rows, folder))
    return {
        "seconds": taken.seconds,
        "cpu": taken.cpu,
        "bytes": taken.highest - taken.before,
        "right": bool(right),
    }


def exponent(points: Sequence[tuple[float, float]], *, least: float) -> float | None:
    """Slope of log(cost) over log(rows) by least squares, of the ``(rows, cost)`` whose cost is over ``least``.

    None where fewer than two such points are there.
    """
    known = [(rows, cost) for rows, cost in points if cost > least]
    if len(known) < 2:
        return None
    rows, costs = np.log(np.asarray(known, dtype=np.float64)).T
    return float(np.polyfit(rows, costs, 1)[0])


def plot(found: dict[str, dict[int, dict[str, Any]]], path: Path) -> None:
    """Processor seconds and memory against rows, both axes logarithmic, with a line of slope one."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "simulate", "svg.fonttype": "none", "font.size": 9})
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    for name, sizes in found.items():
        rows = sorted(sizes)
        slope = exponent([(r, sizes[r]["cpu"]) for r in rows], least=LEAST)
        label = name if slope is None else f"{name}, exponent {slope:.2f}"
        left.loglog(rows, [max(sizes[r]["cpu"], 1e-3) for r in rows], "o-", label=label)
        right.loglog(rows, [max(sizes[r]["bytes"], 1 << 20) / 2**20 for r in rows], "o-", label=name)
    ends = np.array([min(min(s) for s in found.values()), max(max(s) for s in found.values())], float)
    left.loglog(ends, 2e-6 * ends, ":", color="gray", label="slope 1")
    left.set(xlabel="rows", ylabel="processor seconds", title="time")
    right.set(xlabel="rows", ylabel="MiB beyond imports and inputs", title="memory")
    for axis in (left, right):
        axis.grid(visible=True, which="major", alpha=0.3)
    left.legend(fontsize=7.5)
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def report(found: dict[str, dict[int, dict[str, Any]]]) -> bool:
    """Print the table; whether every answer, exponent and bound holds."""
    good = True
    print("\n| step | rows | seconds | processor s | memory, MiB | bound, MiB | bytes a row | right and within bound |")
    print("|---|---|---|---|---|---|---|---|")
    for name, sizes in found.items():
        for rows, one in sorted(sizes.items()):
            bound = FIXED + STEPS[name].bytes_a_row * rows
            good &= one["right"] and one["bytes"] <= bound
            within = "yes" if one["right"] and one["bytes"] <= bound else "NO"
            print(
                f"| {name} | {rows:,} | {one['seconds']:.1f} | {one['cpu']:.1f} | {one['bytes'] / 2**20:.0f} "
                f"| {bound / 2**20:.0f} | {one['bytes'] / rows:.1f} | {within} |"
            )
    print("\n| step | what | exponent of time | of memory | at most 1.1 |")
    print("|---|---|---|---|---|")
    for name, sizes in found.items():
        of_time = exponent([(r, one["cpu"]) for r, one in sizes.items()], least=LEAST)
        of_memory = exponent([(r, one["bytes"]) for r, one in sizes.items()], least=100 * 2**20)
        known = [slope for slope in (of_time, of_memory) if slope is not None]
        good &= all(slope <= LIMIT for slope in known)
        said = ["too little to say" if s is None else f"{s:.2f}" for s in (of_time, of_memory)]
        verdict = "yes" if all(slope <= LIMIT for slope in known) else "NO"
        print(f"| {name} | {STEPS[name].what} | {said[0]} | {said[1]} | {verdict} |")
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=float, nargs="+", default=[1e6, 1e7, 1e8])
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--results", default="build/simulate.json", help="kept here; what it holds is not run again")
    parser.add_argument("--plot", default="build/simulate.svg")
    parser.add_argument("--measure", nargs=3, metavar=("STEP", "ROWS", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        name, rows, folder = options.measure
        print(json.dumps(measure(name, int(rows), Path(folder))))
        return 0
    results = Path(options.results)
    results.parent.mkdir(parents=True, exist_ok=True)
    kept = json.loads(results.read_text()) if results.exists() else {}
    for rows in sorted(int(r) for r in options.rows):
        for name in options.steps:
            if str(rows) in kept.get(name, {}):
                continue
            print(f"{name}, {rows:,} rows …", file=sys.stderr, flush=True)
            with tempfile.TemporaryDirectory(dir=results.parent) as folder:
                command = [sys.executable, __file__, "--measure", name, str(rows), str(Path(folder).resolve())]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            kept.setdefault(name, {})[str(rows)] = json.loads(done.stdout.splitlines()[-1])
            results.write_text(json.dumps(kept, indent=1))
    found = {name: {int(rows): one for rows, one in kept[name].items()} for name in STEPS if name in kept}
    plot(found, Path(options.plot))
    return 0 if report(found) else 1


if __name__ == "__main__":
    sys.exit(main())
