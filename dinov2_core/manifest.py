"""A manifest is the version of what one stage wrote for one partition.

It lists the files (size, checksum, rows), the parameters, the counts and the hashes of the manifests it was
made from, and is written last. Its own hash names the data everywhere: in the orchestrator, the versioning tool
and the model registry. It holds no clock, host, or run id, so that equal work gives equal manifests.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dinov2_core import config
from dinov2_core.errors import DamagedDataError
from dinov2_core.storage import FileRecord, Store

FILE = "manifest.json"
KNOWN = ".manifests"
"""The folder, outside of all stages, that holds a copy of every manifest by its hash: what a name once meant."""
WHOLE = "all"
"""The partition name of stages that have no partitions."""


@dataclass(frozen=True)
class Manifest:
    """What one stage wrote for one partition. ``upstream`` maps ``stage/partition`` to a manifest hash."""

    stage: str
    partition: str
    fingerprint: str
    params: Mapping[str, Any]
    upstream: Mapping[str, str]
    files: tuple[FileRecord, ...]
    counts: Mapping[str, Any] = field(default_factory=dict)
    schemas: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        return f"{self.stage}/{self.partition}"

    def to_json(self) -> str:
        body = config.to_plain(self)
        return json.dumps(body, indent=1, sort_keys=True, ensure_ascii=False) + "\n"

    @property
    def hash(self) -> str:
        """sha256 (hex) of the manifest's own file: the name of this version of the data."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def table(self, name: str) -> list[FileRecord]:
        """The part files of table ``name`` (files called ``name-….parquet``), in order of path."""
        prefix = f"{self.key}/{name}-"
        return sorted(
            (f for f in self.files if f.path.startswith(prefix) and f.path.endswith(".parquet")), key=lambda f: f.path
        )

    def file(self, name: str) -> FileRecord:
        """The one file ``name`` of this manifest."""
        for record in self.files:
            if record.path == f"{self.key}/{name}":
                return record
        raise DamagedDataError(f"the manifest lists no file '{name}'", where=self.key, todo="materialise it again")


def path_of(stage: str, partition: str = WHOLE) -> str:
    """Where the manifest of a partition lies, relative to the data root."""
    return f"{stage}/{partition}/{FILE}"


def read(store: Store, stage: str, partition: str = WHOLE) -> Manifest | None:
    """The manifest of a partition, or None where the stage has not completed."""
    path = path_of(stage, partition)
    return _parse(store, path, f"delete it and materialise {stage}") if store.exists(path) else None


def by_hash(store: Store, name: str) -> Manifest | None:
    """The manifest of that hash, present or past, or None where this data root has never known it.

    Raises:
        DamagedDataError: what lies under that name is something else.
    """
    path = f"{KNOWN}/{name}.json"
    if not store.exists(path):
        return None
    todo = "delete it: a manifest that is still there is noted again"
    found = _parse(store, path, todo)
    if found.hash != name:
        raise DamagedDataError(f"its content has the name {found.hash[:12]}", where=f"{store.root}/{path}", todo=todo)
    return found


def _parse(store: Store, path: str, todo: str) -> Manifest:
    try:
        body = json.loads(store.read_bytes(path))
        body["files"] = tuple(FileRecord(**f) for f in body["files"])
        return Manifest(**body)
    except (ValueError, TypeError, KeyError) as error:
        raise DamagedDataError(f"not a readable manifest ({error})", where=f"{store.root}/{path}", todo=todo) from error


def write(store: Store, manifest: Manifest) -> None:
    """Put the manifest in its place: from then on the partition counts as made. A copy stays under its hash."""
    note(store, manifest)
    store.write_bytes(path_of(manifest.stage, manifest.partition), manifest.to_json().encode())


def note(store: Store, manifest: Manifest) -> None:
    """Keep what this manifest's hash means, for the day on which another is in its place."""
    if not store.exists(path := f"{KNOWN}/{manifest.hash}.json"):
        store.write_bytes(path, manifest.to_json().encode())


def partitions(store: Store, stage: str) -> list[str]:
    """Partitions of ``stage`` that have completed at least once, sorted."""
    return [p for p in store.folders(stage) if store.exists(path_of(stage, p))]
