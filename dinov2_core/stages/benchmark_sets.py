"""The stage ``benchmark_sets``: the evaluation sets, packed, and copy-detection embeddings of what must not leak.

Nothing of an evaluation set is ever dropped: a broken image is an error, a repeated one stays (the set is defined so).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from dinov2_core import stage, tables
from dinov2_core.curation import copy_detection, onnx_model
from dinov2_core.errors import ConfigError, UserError, nearest
from dinov2_core.images.sets import Labels
from dinov2_core.stage import StageRun
from dinov2_core.stages import labelled
from dinov2_core.stages.copy_embeddings import embed
from dinov2_core.stages.labelled import Source
from dinov2_core.storage import Store


@dataclass(frozen=True)
class BenchmarkSet:
    """One evaluation set. ``splits``: name → address. ``reference``: the splits whose images, copies included, must
    not be trained on; the paper takes every split that is evaluated on."""

    name: str
    splits: dict[str, str]
    reference: tuple[str, ...] = ("test",)
    labels: Labels = "auto"

    def __post_init__(self) -> None:
        for name in self.reference:
            if name not in self.splits:
                known = ", ".join(self.splits)
                raise ValueError(f"set '{self.name}' has no split '{name}'{nearest(name, self.splits)}: {known}")


@dataclass(frozen=True)
class Params:
    """``model`` and ``side`` must be those of ``copy_embeddings``: the two are compared."""

    sets: tuple[BenchmarkSet, ...] = ()
    model: str = "sscd"
    side: int = copy_detection.SIDE
    images_per_task: int = stage.efficiency(500)


def external(store: Store, partition: str, params: Params) -> dict[str, Any]:
    """The state of every split's files, and the checksum of the model."""
    sets = labelled.state(store, _sources(params), "benchmark_sets")
    return {"sets": sets, "model": onnx_model.checksum(params.model) if _any_reference(params) else ""}


def run(run: StageRun) -> dict[str, Any]:
    """Pack the splits and embed the images of the reference ones.

    Raises:
        UserError: an image does not decode, or a set is missing or empty.
    """
    params: Params = run.params
    packed = labelled.pack(run, _sources(params))
    if packed.refused:
        source, key, reason = packed.refused[0]
        raise UserError(
            f"{len(packed.refused)} images of the evaluation sets do not decode, first '{key}' ({reason})",
            where=f"{run.where}: set '{source.dataset}', split '{source.split}', {source.uri}",
            todo="replace the files, or remove them and accept other numbers than everyone else's",
        )
    run.write_table("labelled", tables.from_rows(packed.rows, tables.LABELLED))
    references = _embed(run, packed.rows)
    return {
        "images": len(packed.rows),
        "splits": dict(Counter(f"{row['dataset']}/{row['split']}" for row in packed.rows)),
        "repeated": len(packed.rows) - len({(r["dataset"], r["split"], r["image_id"]) for r in packed.rows}),
        "references": references,
        **labelled.class_counts(packed.rows),
    }


def _embed(run: StageRun, rows: list[dict[str, Any]]) -> int:
    """Embed every reference image once; returns how many there are."""
    params: Params = run.params
    wanted = {(one.name, split) for one in params.sets for split in one.reference}
    columns = ("image_id", "shard", "offset", "length")
    once = {r["image_id"]: {c: r[c] for c in columns} for r in rows if (r["dataset"], r["split"]) in wanted}
    images = sorted(once.values(), key=lambda r: (r["shard"], r["offset"]))
    size = params.images_per_task
    tasks = {
        f"embed-{start // size:05d}": {
            "images": images[start : start + size],
            "model": params.model,
            "side": params.side,
        }
        for start in range(0, len(images), size)
    }
    run.map(embed, tasks, label="copy embeddings", unit=lambda s: int(s["images"]), total=len(images))
    if not tasks:
        run.write_table("copy_embeddings", tables.COPY_EMBEDDINGS.empty_table())
    return len(images)


def _any_reference(params: Params) -> bool:
    return any(one.reference for one in params.sets)


def _sources(params: Params) -> list[Source]:
    if not params.sets:
        raise ConfigError(
            "there are no evaluation sets", where="benchmark_sets.sets", todo="name at least one in params.yaml"
        )
    names = Counter(one.name for one in params.sets)
    if repeated := [name for name, count in names.items() if count > 1]:
        raise ConfigError(f"the name '{repeated[0]}' is used twice", where="benchmark_sets.sets", todo="rename one")
    return [Source(one.name, split, uri, one.labels) for one in params.sets for split, uri in one.splits.items()]
