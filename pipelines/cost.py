"""What re-embedding the pool would cost here, from what the last times took.

Times are those that Dagster recorded; a stage that was never timed on this instance is listed as unknown. What a plan
for other machines would cost does not belong here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import dagster as dg

from dinov2_core import manifest
from dinov2_core.stages import registry
from dinov2_core.storage import Store

ENCODER_STAGES = ("embeddings", "seed_embeddings")
_LOOK_BACK = 200


@dataclass(frozen=True)
class Estimate:
    """``seconds`` of the stages that were timed, ``unknown`` the others; ``images`` to embed, in ``batches``."""

    images: int
    batches: int
    seconds: float
    unknown: tuple[str, ...]

    def __str__(self) -> str:
        text = f"{self.images:,} images in {self.batches} batches, about {_duration(self.seconds)}"
        return f"{text}, not counting {', '.join(self.unknown)} (never timed here)" if self.unknown else text


def affected() -> list[str]:
    """Stages that are made again once another encoder embeds, up to the curated set, in order."""
    target = "curated_lvd"
    needed = upstream_of(target) | {target}
    reached: set[str] = set(ENCODER_STAGES)
    for name, spec in registry.STAGES.items():
        if set(spec.upstream) & reached:
            reached.add(name)
    return [name for name in registry.STAGES if name in reached & needed]


def upstream_of(name: str) -> set[str]:
    """All stages that ``name`` is made from, directly or not."""
    direct = set(registry.get(name).upstream)
    return direct.union(*(upstream_of(one) for one in direct)) if direct else direct


def estimate(instance: dg.DagsterInstance, store: Store, *, scale: float = 1.0) -> Estimate:
    """The cost of making all that ``affected`` lists again.

    Args:
        scale: work of the new encoder an image, relative to the one that was timed.
    """
    images = batches = 0
    seconds = 0.0
    unknown = []
    for name in affected():
        manifests = [m for p in manifest.partitions(store, name) if (m := manifest.read(store, name, p)) is not None]
        timed = _timed(instance, name)
        if name == "embeddings":
            images = sum(int(m.counts["images"]) for m in manifests)
            batches = len(manifests)
        if not timed:
            unknown.append(name)
            continue
        rate = sum(t for t, _ in timed) / max(sum(units for _, units in timed), 1)
        units = sum(int(m.counts.get("images", 1)) for m in manifests)
        seconds += rate * units * (scale if name in ENCODER_STAGES else 1.0)
    return Estimate(images, batches, seconds, tuple(unknown))


def _timed(instance: dg.DagsterInstance, name: str) -> Sequence[tuple[float, int]]:
    """``(seconds, images or 1)`` of the latest times that the stage was computed."""
    found = []
    records = instance.fetch_materializations(dg.AssetKey(name), limit=_LOOK_BACK).records
    for record in records:
        made = record.asset_materialization
        metadata: Mapping[str, dg.MetadataValue] = made.metadata if made else {}
        if "seconds" in metadata and "computed" in metadata and metadata["computed"].value:
            images = metadata["images"].value if "images" in metadata else 1
            found.append((float(str(metadata["seconds"].value)), int(str(images))))
    return found


def _duration(seconds: float) -> str:
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"
