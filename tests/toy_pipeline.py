"""A pipeline of four toy stages under the names of real ones, for tests of what surrounds a stage.

``raw_crawl`` reads numbers from the files of a batch, ``embeddings`` and ``seed_embeddings`` multiply them by a digit
of the encoder, ``curated_lvd`` sums over all batches. Every task says that it was called, and waits while there is a
file ``hold/STAGE``: so a test can stop a process in the middle of any stage.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from dinov2_core import adopted_encoder
from dinov2_core.errors import UserError
from dinov2_core.images.sets import address, files_of
from dinov2_core.stage import StageRun, StageSpec
from dinov2_core.storage import Store
from pipelines.resources.lake import Lake

SHARDS = 3
PATIENCE = 60


@dataclass(frozen=True)
class CrawlParams:
    sources: str = "sources"


@dataclass(frozen=True)
class Params:
    encoder: str = "champion"
    fail: str = ""


def _sources(store: Store, partition: str, params: CrawlParams) -> list[int]:
    fs, base, names = files_of(f"{address(store.root, params.sources)}/{partition}")
    return [int(line) for name in sorted(names) for line in fs.cat_file(f"{base}/{name}").split()]


def sources_state(store: Store, partition: str, params: CrawlParams) -> list[int]:
    return _sources(store, partition, params)


def encoder_state(store: Store, partition: str, params: Params) -> str:
    found = adopted_encoder.read(store)
    return "" if found is None else found.sha256


def shard(task: Any) -> dict[str, Any]:
    store = Store(task["root"])
    root = Path(task["root"])
    called = root.parent / "calls"
    called.mkdir(exist_ok=True)
    name = f"{task['stage']}-{task['partition']}-{task['key']}"
    (called / f"{name}-{len(list(called.glob(f'{name}-*')))}").touch()
    until = time.monotonic() + PATIENCE
    # The first shard is done before the wait: something to lose.
    while task["key"] != "00000" and (root.parent / "hold" / task["stage"]).exists() and time.monotonic() < until:
        time.sleep(0.05)
    table = pa.table({"value": pa.array([task["value"]], pa.int64())})
    return {"files": [store.write_table(task["stem"].format(name="numbers") + ".parquet", table)], "sum": task["value"]}


def _map(run: StageRun, values: list[int]) -> dict[str, Any]:
    tasks = {
        f"{i:05d}": {"value": sum(values) * (i + 1), "stage": run.spec.name, "partition": run.partition}
        for i in range(SHARDS)
    }
    return {"images": SHARDS, "sum": sum(s["sum"] for s in run.map(shard, tasks))}


def crawl(run: StageRun) -> dict[str, Any]:
    return _map(run, _sources(run.store, run.partition, run.params))


def follow(run: StageRun) -> dict[str, Any]:
    if run.params.fail:
        raise UserError(run.params.fail, where=run.where)
    values = [v for stage in run.spec.upstream for v in run.read(stage, "numbers")["value"].to_pylist()]
    return _map(run, values)


_HERE = "tests.toy_pipeline"


def _spec(name: str, **rest: Any) -> StageSpec:
    rest = {"run": f"{_HERE}:follow", "params": f"{_HERE}:Params", "description": name, **rest}
    return StageSpec(name, "toy", **rest)


STAGES = {
    spec.name: spec
    for spec in (
        _spec(
            "raw_crawl",
            run=f"{_HERE}:crawl",
            params=f"{_HERE}:CrawlParams",
            external=f"{_HERE}:sources_state",
            partitioned=True,
        ),
        _spec("embeddings", upstream={"raw_crawl": "same"}, partitioned=True, external=f"{_HERE}:encoder_state"),
        _spec("seed_embeddings", external=f"{_HERE}:encoder_state"),
        _spec("curated_lvd", upstream={"embeddings": "all", "seed_embeddings": "all"}),
    )
}


def assets() -> list[Any]:
    """The toy stages as assets, by the factory of the real ones; ``registry.STAGES`` must be ``STAGES``."""
    from assets import champion
    from assets.factory import stage_asset

    follows = {champion.NAME: champion.adopted_version}
    made = [
        stage_asset(name, external=follows if "embeddings" in name else None, pool="accelerator") for name in STAGES
    ]
    return [champion.champion, *made]


def put(folder: Path, batch: str, numbers: str, name: str = "urls.txt") -> None:
    """Write a source file of a batch below ``folder/data/sources``."""
    path = folder / "data" / "sources" / batch / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(numbers)


def lake(folder: Path, params: str = "{}\n") -> Lake:
    """The toy's data root and settings below ``folder``."""
    (folder / "data" / "sources").mkdir(parents=True, exist_ok=True)
    if not (folder / "params.yaml").exists():
        (folder / "params.yaml").write_text(params)
    return Lake(data_root=str(folder / "data"), params_file=str(folder / "params.yaml"))


def manifests(folder: Path) -> dict[str, str]:
    """``stage/partition`` → the manifest's own text."""
    found = sorted((folder / "data").glob("*/*/manifest.json"))
    return {f"{p.parent.parent.name}/{p.parent.name}": p.read_text() for p in found}


def calls(folder: Path) -> list[str]:
    """Every task that was begun: ``STAGE-PARTITION-SHARD-N``, sorted."""
    return sorted(p.name for p in (folder / "calls").glob("*"))
