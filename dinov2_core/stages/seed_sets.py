"""The stage ``seed_sets``: the curated query sets of the LVD recipe (paper, table 15), packed into shards.

How many images each retrieves, and how, is decided in ``curated_lvd``, which reads ``task`` from the manifest.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from dinov2_core import tables
from dinov2_core.errors import ConfigError
from dinov2_core.images.sets import Labels
from dinov2_core.stage import StageRun
from dinov2_core.stages import labelled
from dinov2_core.stages.labelled import Source
from dinov2_core.storage import Store


@dataclass(frozen=True)
class SeedSet:
    """One curated set. ``task``: what it is for, the first column of the composition table."""

    name: str
    uri: str
    task: str = "classification"
    labels: Labels = "auto"


@dataclass(frozen=True)
class Params:
    """``sets``: at least one; names are unique; an ``uri`` may be relative to the data root."""

    sets: tuple[SeedSet, ...] = ()


def external(store: Store, partition: str, params: Params) -> dict[str, str]:
    """The state of every set's files."""
    return labelled.state(store, _sources(params), "seed_sets")


def run(run: StageRun) -> dict[str, Any]:
    """Pack the sets. An image that comes twice in a set is one seed; one that does not decode is counted and named."""
    params: Params = run.params
    packed = labelled.pack(run, _sources(params))
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    conflicts = 0
    for row in packed.rows:
        first = rows.setdefault((row["dataset"], row["image_id"]), row)
        conflicts += first["label"] != row["label"]
    kept = list(rows.values())
    run.write_table("labelled", tables.from_rows(kept, tables.LABELLED))
    return {
        "images": len(kept),
        "sets": dict(Counter(row["dataset"] for row in kept)),
        "duplicates": len(packed.rows) - len(kept),
        "duplicates_with_another_label": conflicts,
        "refused": len(packed.refused),
        "refused_first": [f"{s.dataset}/{key}: {reason}" for s, key, reason in packed.refused[:20]],
        **labelled.class_counts(kept),
    }


def _sources(params: Params) -> list[Source]:
    if not params.sets:
        raise ConfigError(
            "there are no seed sets, and everything is curated around them",
            where="seed_sets.sets",
            todo="name at least one folder, tar or Parquet file of curated images in params.yaml",
        )
    names = Counter(one.name for one in params.sets)
    if repeated := [name for name, count in names.items() if count > 1]:
        raise ConfigError(f"the name '{repeated[0]}' is used twice", where="seed_sets.sets", todo="rename one")
    return [Source(one.name, "seeds", one.uri, one.labels) for one in params.sets]
