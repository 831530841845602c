"""What a stage is, and how one is materialised: skip if up to date, run, write the manifest last.

A stage reads the manifests of its upstream stages, writes files below ``STAGE/PARTITION/`` and returns counts. Its
*fingerprint* covers its name, version, quality settings, external inputs and upstream manifest hashes; a partition
whose manifest carries the same fingerprint is up to date and is not computed again, whoever asks. File names hold
the fingerprint, so a re-run never touches what the current manifest refers to. The list of stages is in
``stages/registry.py``, the manifests that a stage is made from are found by ``upstream.py``; who schedules stages does
not belong here.
"""

from __future__ import annotations

import importlib
import json
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dinov2_core import config, manifest, tables
from dinov2_core.errors import DamagedDataError, UserError
from dinov2_core.launcher import InProcess, Launcher
from dinov2_core.locks import partition_lock
from dinov2_core.manifest import WHOLE, Manifest
from dinov2_core.progress import Progress
from dinov2_core.shard_map import InlineShardMap, QuarantineError, Resources, ShardFunction, ShardMap, Summary, Task
from dinov2_core.storage import FileRecord, Store
from dinov2_core.tracker import Tracker
from dinov2_core.upstream import Scope, gather

log = logging.getLogger(__name__)

QUARANTINE = "quarantine.json"
"""Among the done-markers of a map: key → reason of the shards that a cluster engine set aside."""


def efficiency(default: Any) -> Any:
    """A setting that changes speed or memory but never results: it stays out of the fingerprint."""
    return field(default=default, metadata={"efficiency": True})


def quality(params: Any) -> dict[str, Any]:
    """The settings of a params dataclass that can change results, as plain values."""
    fields = type(params).__dataclass_fields__
    plain = config.to_plain(params)
    return {k: v for k, v in plain.items() if not fields[k].metadata.get("efficiency")}


@dataclass(frozen=True)
class StageSpec:
    """One stage: where its code is and what it reads. ``run`` and ``params`` are ``module:name``, imported late."""

    name: str
    group: str
    description: str
    run: str
    params: str
    upstream: Mapping[str, Scope] = field(default_factory=dict)
    partitioned: bool = False
    version: str = "1"
    external: str = ""
    """``module:name`` of ``f(store, partition, params)``: plain values naming the state of inputs outside the store."""
    kinds: tuple[str, ...] = ()

    def load_params(self, values: Mapping[str, Any] | None) -> Any:
        return config.build(load(self.params), values, where=self.name)


def load(reference: str) -> Any:
    """Import ``module:name``."""
    module, name = reference.split(":")
    return getattr(importlib.import_module(module), name)


@dataclass
class StageRun:
    """What a stage's ``run`` function is given."""

    spec: StageSpec
    store: Store
    partition: str
    params: Any
    fingerprint: str
    upstream: Mapping[str, Manifest]
    shard_map: ShardMap
    tracker: Tracker
    launcher: Launcher = field(default_factory=InProcess)
    files: list[FileRecord] = field(default_factory=list)

    @property
    def where(self) -> str:
        """``stage`` or ``stage[partition]``, for messages."""
        return self.spec.name if self.partition == WHOLE else f"{self.spec.name}[{self.partition}]"

    @property
    def folder(self) -> str:
        return f"{self.spec.name}/{self.partition}"

    def name(self, stem: str, suffix: str, part: int | str = 0) -> str:
        """The path of an output file: ``STAGE/PARTITION/stem-FINGERPRINT-part.suffix``."""
        tag = f"{part:05d}" if isinstance(part, int) else part
        return f"{self.folder}/{stem}-{self.fingerprint[:10]}-{tag}.{suffix}"

    def manifests(self, stage: str) -> list[Manifest]:
        """The upstream manifests of ``stage``, by partition."""
        found = [m for m in self.upstream.values() if m.stage == stage]
        return sorted(found, key=lambda m: m.partition)

    def read(self, stage: str, table: str, columns: Sequence[str] | None = None, *, partition: str = "") -> pa.Table:
        """All rows of an upstream table, over all partitions in reach or one."""
        parts = [
            self.store.read_table(record.path, list(columns) if columns else None)
            for m in self.manifests(stage)
            if not partition or m.partition == partition
            for record in m.table(table)
        ]
        if not parts:
            kinds = tables.SCHEMAS.get(table)
            if kinds is None:
                raise UserError(f"no table '{table}' in {stage}", where=self.where, todo=f"materialise {stage}")
            empty = kinds.empty_table()
            return empty.select(list(columns)) if columns else empty
        return pa.concat_tables(parts)

    def write_table(self, name: str, table: pa.Table, part: int | str = 0) -> FileRecord:
        """Write one part of an output table and put it in the manifest."""
        record = self.store.write_table(self.name(name, "parquet", part), table)
        self.files.append(record)
        return record

    def write_file(self, stem: str, suffix: str, data: bytes) -> FileRecord:
        record = self.store.write_bytes(self.name(stem, suffix), data)
        self.files.append(record)
        return record

    def scratch(self, name: str) -> str:
        """A path for what only this run reads (checkpoints, done-markers); removed once the manifest is written."""
        return f"{self.folder}/.progress/{self.fingerprint[:16]}/{name}"

    def local_scratch(self, name: str) -> Path:
        """The same as a folder on this machine's disk, which a second try on this machine finds again."""
        if self.store.local:
            return Path(self.store.full(self.scratch(name)))
        return _local_progress(self) / name

    def map(
        self,
        function: ShardFunction,
        tasks: Mapping[str, Task],
        *,
        label: str = "",
        unit: Callable[[Summary], int] | None = None,
        total: int | None = None,
        resources: Resources = Resources(),
    ) -> list[Summary]:
        """Run ``function`` once a task, skipping those with a done-marker; summaries in order of key.

        Each task is given ``root`` (the store's), ``key`` and ``stem`` (a prefix for its output files) beside its
        own values. A summary's ``files`` (a list of ``FileRecord`` dictionaries) enter the manifest.
        ``unit`` counts a summary for the progress display, towards ``total``.

        Raises:
            QuarantineError: shards kept failing on a cluster; their reasons stand beside the done-markers.
        """
        keys = sorted(tasks)
        done: dict[str, Summary] = {}
        left = []
        for key in keys:
            marker = self.scratch(f"{key}.json")
            if self.store.exists(marker):
                done[key] = json.loads(self.store.read_bytes(marker))
            else:
                stem = f"{self.folder}/{{name}}-{self.fingerprint[:10]}-{key}"
                left.append({**tasks[key], "root": self.store.root, "key": key, "stem": stem, "_marker": marker})
        call = _Marked(function)
        with Progress(f"{self.where}: {label or function.__name__}", total or len(keys)) as progress:
            for summary in done.values():
                progress.advance(unit(summary) if unit else 1)
            try:
                for index, summary in self.shard_map.map(call, left, resources=resources):
                    done[left[index]["key"]] = summary
                    progress.advance(unit(summary) if unit else 1)
            except QuarantineError as error:
                self.store.write_bytes(self.scratch(QUARANTINE), json.dumps(error.reasons, indent=1).encode())
                raise QuarantineError(error.what, where=self.where, todo=error.todo) from error
        summaries = [done[key] for key in keys]
        self.files += [FileRecord(**f) for s in summaries for f in s.get("files", [])]
        return summaries


def _local_progress(run: StageRun) -> Path:
    """Where a run keeps what needs a folder while its data root is none."""
    return Path(tempfile.gettempdir()) / "dinov2-scratch" / config.digest([run.store.root, run.scratch("")])


@dataclass(frozen=True)
class _Marked:
    """A shard function that leaves its done-marker, whichever engine runs it."""

    function: ShardFunction

    def __call__(self, task: Task) -> Summary:
        task = dict(task)
        marker = task.pop("_marker")
        summary = self.function(task)
        summary["files"] = [asdict(f) if isinstance(f, FileRecord) else f for f in summary.get("files", [])]
        Store(task["root"]).write_bytes(marker, json.dumps(summary).encode())
        return summary


@dataclass(frozen=True)
class Materialised:
    """The result of :func:`materialise`: ``fresh`` is False where nothing had to be computed."""

    manifest: Manifest
    fresh: bool
    seconds: float


def fingerprint(spec: StageSpec, params: Any, upstream: Mapping[str, Manifest], external: Any) -> str:
    """sha256 (hex) over everything that decides what the stage would write."""
    return config.digest(
        {
            "stage": spec.name,
            "version": spec.version,
            "params": quality(params),
            "upstream": {key: m.hash for key, m in upstream.items()},
            "external": external,
        }
    )


def state(
    store: Store, spec: StageSpec, partition: str, params: Any
) -> tuple[str, dict[str, Manifest], Manifest | None]:
    """``(fingerprint wanted now, upstream manifests, the manifest if it is up to date)``."""
    upstream = gather(store, spec.name, spec.upstream, partition)
    external = load(spec.external)(store, partition, params) if spec.external else None
    wanted = fingerprint(spec, params, upstream, external)
    try:
        current = manifest.read(store, spec.name, partition)
    except DamagedDataError as error:
        # Its own manifest is what a stage writes anew; that of an upstream stage is an error.
        log.warning("%s: %s; it is made again", error.where, error.what)
        current = None
    return wanted, upstream, current if current is not None and current.fingerprint == wanted else None


def materialise(
    store: Store,
    spec: StageSpec,
    partition: str = WHOLE,
    params: Mapping[str, Any] | Any = None,
    *,
    shard_map: ShardMap | None = None,
    launcher: Launcher | None = None,
    tracker: Tracker | None = None,
    force: bool = False,
    verify: bool = False,
) -> Materialised:
    """Bring one partition of one stage up to date.

    A second run of the same partition waits for the first and then finds it up to date (see ``locks.py``).

    Args:
        params: the stage's settings, a mapping or its params dataclass.
        launcher: starts the processes of a training; this one alone where left out.
        force: compute even where up to date.
        verify: trust no file that is there: what does not have the size and checksum of its manifest is made again.
    """
    if params is None or isinstance(params, Mapping):
        params = spec.load_params(params)
    with partition_lock(store, spec.name, partition):
        started = time.monotonic()
        wanted, upstream, current = state(store, spec, partition, params)
        if current is not None and not force and _intact(store, current, verify):
            # A process that was killed between the two last steps leaves its checkpoints behind.
            if store.exists(left := f"{spec.name}/{partition}/.progress/{wanted[:16]}"):
                store.delete(left)
            return Materialised(current, False, time.monotonic() - started)
        run = StageRun(
            spec=spec,
            store=store,
            partition=partition,
            params=params,
            fingerprint=wanted,
            upstream=upstream,
            shard_map=shard_map or InlineShardMap(),
            tracker=tracker or (lambda step, metrics: None),
            launcher=launcher or InProcess(),
        )
        counts = load(spec.run)(run)
        names = {f.path: f for f in run.files}
        made = Manifest(
            stage=spec.name,
            partition=partition,
            fingerprint=wanted,
            params=quality(params),
            upstream={key: m.hash for key, m in sorted(upstream.items())},
            files=tuple(names[p] for p in sorted(names)),
            counts=counts,
            schemas=_schemas(store, names),
        )
        manifest.write(store, made)
        store.delete(f"{run.folder}/.progress")
        shutil.rmtree(_local_progress(run), ignore_errors=True)
        return Materialised(made, True, time.monotonic() - started)


def _intact(store: Store, made: Manifest, verify: bool) -> bool:
    """Whether the files of a manifest are there; with ``verify``, whether they are what it says."""
    if not verify:
        return all(store.exists(f.path) for f in made.files)
    try:
        for record in made.files:
            store.verify(record)
    except DamagedDataError as error:
        log.warning("%s; it is made again", error.what if not error.where else f"{error.where}: {error.what}")
        return False
    return True


def _schemas(store: Store, files: Mapping[str, FileRecord]) -> dict[str, str]:
    """Table name → its schema as text, one line a column, from the first part of each table."""
    found: dict[str, str] = {}
    for path in sorted(files):
        if path.endswith(".parquet"):
            name = path.rsplit("/", 1)[-1].split("-", 1)[0]
            if name not in found:
                with store.open(path) as f:
                    schema = pq.read_schema(f)
                found[name] = "; ".join(f"{c.name}: {c.type}" for c in schema)
    return found
