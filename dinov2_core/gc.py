"""Which files of a data root nobody refers to any more, and their removal. Nothing else ever deletes old data.

Kept is: what the present manifests list; what the manifests of kept versions list (``kept.py``); everything that those
were made from, back to the crawl; whatever a run that is under way writes or may read; and whatever is younger than a
grace time, the state of killed runs included. Who refers to a version does not belong here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from dinov2_core import locks, manifest, object_store
from dinov2_core.kept import Kept
from dinov2_core.manifest import Manifest
from dinov2_core.stages import registry
from dinov2_core.storage import TEMPORARY, Entry, Store

SCRATCH = "/.progress/"
GRACE = 24 * 3600.0
Place = tuple[str, str]
"""Stage and partition."""


@dataclass(frozen=True)
class Garbage:
    """What one partition could give back: ``files`` in the order in which they must go."""

    place: Place
    files: tuple[Entry, ...]

    @property
    def bytes(self) -> int:
        return sum(f.bytes for f in self.files)


@dataclass(frozen=True)
class Plan:
    """``garbage`` a partition; ``uploads`` that nobody will finish; ``names``: copies of manifests that nothing needs;
    ``left``: stages of which nothing is freed, and why."""

    garbage: tuple[Garbage, ...] = ()
    uploads: tuple[object_store.Unfinished, ...] = ()
    names: tuple[str, ...] = ()
    left: Mapping[str, str] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        return sum(one.bytes for one in self.garbage)

    @property
    def files(self) -> int:
        return sum(len(one.files) for one in self.garbage)


def plan(
    store: Store, kept: Iterable[Kept], now: float, grace: float = GRACE, busy: Collection[Place] | None = None
) -> Plan:
    """What could be freed.

    Args:
        kept: who refers to what. A version that this data root does not know protects its stage and all upstream of it.
        now: the present, in seconds since the epoch.
        grace: seconds for which every file is safe.
        busy: the partitions that runs are writing; asked for where left out.
    """
    left: dict[str, str] = {}
    for stage, partition in locks.busy(store) if busy is None else busy:
        _leave(left, stage, f"{stage}/{partition} is being made")
    needed = _needed(store, kept, left)
    paths = {record.path for one in needed.values() for record in one.files}
    garbage, present = [], set()
    for stage in registry.STAGES:
        for partition in store.folders(stage):
            present.add(stage)
            files = _unneeded(store.listing(f"{stage}/{partition}"), paths, now - grace) if stage not in left else []
            if files:
                garbage.append(Garbage((stage, partition), tuple(files)))
    uploads = [
        one
        for one in object_store.unfinished(store.fs, store.base)
        if one.age > grace and one.path.removeprefix(f"{store.base}/").split("/")[0] not in left
    ]
    old = [e.path for e in store.listing(manifest.KNOWN) if e.modified < now - grace] if not left else []
    names = [path for path in old if path.rsplit("/", 1)[-1].removesuffix(".json") not in needed]
    return Plan(tuple(garbage), tuple(uploads), tuple(names), {s: why for s, why in left.items() if s in present})


def free(store: Store, kept: Iterable[Kept], now: float, grace: float = GRACE) -> Plan:
    """Delete what :func:`plan` says, holding the partitions' locks; returns what was deleted.

    A run that starts meanwhile waits for its partition; of one that is under way nothing is touched that it may read.
    """
    kept = list(kept)
    for one in _current(store):
        manifest.note(store, one)
    with contextlib.ExitStack() as stack:
        wanted = [one.place for one in plan(store, kept, now, grace).garbage]
        mine = {place for place in wanted if stack.enter_context(locks.partition_lock(store, *place, wait=False))}
        # Looked at again, now that nobody else can write there.
        found = plan(store, kept, now, grace, busy=[place for place in locks.busy(store) if place not in mine])
        found = replace(found, garbage=tuple(one for one in found.garbage if one.place in mine))
        for garbage in found.garbage:
            for entry in garbage.files:
                store.delete(entry.path)
        for upload in found.uploads:
            object_store.abort(store.fs, upload)
        for name in found.names:
            store.delete(name)
    return found


def _current(store: Store) -> Iterator[Manifest]:
    for stage in registry.STAGES:
        for partition in manifest.partitions(store, stage):
            one = manifest.read(store, stage, partition)
            assert one is not None, "partitions() lists completed ones"
            yield one


def _needed(store: Store, kept: Iterable[Kept], left: dict[str, str]) -> dict[str, Manifest]:
    """By hash: the present manifests, the kept ones, and all that they were made from."""
    waiting = list(kept)
    found: dict[str, Manifest] = {}

    def enter(one: Manifest, who: str) -> None:
        found[one.hash] = one
        waiting.extend(Kept(name, key.split("/", 1)[0], who) for key, name in one.upstream.items())

    for one in _current(store):
        enter(one, f"the present {one.key}")
    while waiting:
        want = waiting.pop()
        if want.hash in found:
            continue
        known = manifest.by_hash(store, want.hash)
        if known is None:
            _leave(left, want.stage, f"{want.who} needs version {want.hash[:12]}, which this data root does not know")
        else:
            enter(known, want.who)
    return found


def _leave(left: dict[str, str], stage: str, why: str) -> None:
    """Protect a stage and everything upstream of it; an unknown stage protects all."""
    waiting = [stage] if stage in registry.STAGES else list(registry.STAGES)
    while waiting:
        name = waiting.pop()
        if name not in left:
            left[name] = why
            waiting += registry.STAGES[name].upstream


def _unneeded(entries: list[Entry], needed: set[str], before: float) -> list[Entry]:
    old = [e for e in entries if e.modified < before]
    if any(SCRATCH in e.path and e.modified >= before for e in entries):
        # A run that was killed lately may be taken up again: its markers vouch for files of any name.
        return [e for e in old if TEMPORARY in e.path]
    # Markers go first: one whose files are gone would have the next run believe in them.
    markers = [e for e in old if SCRATCH in e.path]
    rest = [e for e in old if SCRATCH not in e.path and e.path not in needed]
    return markers + [e for e in rest if not e.path.endswith(f"/{manifest.FILE}")]
