"""Which manifests a partition of a stage is made from, and whether they are there and of the present.

How a stage is made from them does not belong here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from dinov2_core import manifest
from dinov2_core.errors import UserError
from dinov2_core.manifest import WHOLE, Manifest
from dinov2_core.storage import Store

Scope = Literal["same", "earlier", "all"]
"""Which partitions of an upstream stage are read: this one; this one and those that sort before it; every one."""


def gather(store: Store, name: str, scopes: Mapping[str, Scope], partition: str) -> dict[str, Manifest]:
    """The manifests that a partition of the stage ``name`` is made from, by ``STAGE/PARTITION``.

    Raises:
        UserError: an upstream partition has not been materialised, or is older than what it was itself made from;
            the message names it.
    """
    where = name if partition == WHOLE else f"{name}[{partition}]"
    found: dict[str, Manifest] = {}
    for stage, partitions in _partitions_wanted(store, scopes, partition).items():
        for wanted in partitions:
            one = manifest.read(store, stage, wanted)
            if one is None:
                label = stage if wanted == WHOLE else f"{stage}[{wanted}]"
                raise UserError(f"'{label}' has not been materialised", where=where, todo=f"materialise {stage} first")
            found[one.key] = one
    seen = dict(found)
    for one in found.values():
        for key, version in one.upstream.items():
            if key not in seen:
                current = manifest.read(store, *key.split("/", 1))
                if current is None:
                    continue  # made elsewhere; only this much of the history was brought here
                seen[key] = current
            if seen[key].hash != version:
                raise UserError(
                    f"'{one.key}' is stale: '{key}' has changed since it was made",
                    where=where,
                    todo=f"materialise {one.stage} again first (full_pipeline without a partition does all of it)",
                )
    return found


def _partitions_wanted(store: Store, scopes: Mapping[str, Scope], partition: str) -> dict[str, list[str]]:
    wanted: dict[str, list[str]] = {}
    everything: set[str] = set()
    for stage, scope in scopes.items():
        if scope == "same":
            wanted[stage] = [partition]
            continue
        names = manifest.partitions(store, stage) or [WHOLE]
        if scope == "earlier":
            # The batch itself is always wanted, so that a missing one is an error and not an empty list.
            names = sorted({*(n for n in names if n <= partition and n != WHOLE), partition})
        wanted[stage] = names
        if scope == "all" and names != [WHOLE]:
            everything |= set(names)
    # A stage over all batches sees the same batches everywhere: one that is half-way through is missing, not absent.
    for stage, scope in scopes.items():
        if scope == "all" and everything and wanted[stage] != [WHOLE]:
            wanted[stage] = sorted(everything)
    return wanted
