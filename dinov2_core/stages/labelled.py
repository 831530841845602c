"""What ``seed_sets`` and ``benchmark_sets`` share: a set read, checked image by image, and packed into shards.

What each makes of duplicates and of broken images, it says itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dinov2_core import tables
from dinov2_core.errors import UserError
from dinov2_core.images.decode import EXTENSIONS, Refused, decode
from dinov2_core.images.sets import ImageSet, Labels, address, signature
from dinov2_core.images.shards import ShardWriter
from dinov2_core.stage import StageRun
from dinov2_core.storage import Store


@dataclass(frozen=True)
class Source:
    """One split of one set, as the settings name it."""

    dataset: str
    split: str
    uri: str
    labels: Labels


@dataclass(frozen=True)
class Packed:
    """``rows`` of the table ``labelled``, in order; ``refused``: ``(source, key, reason)`` of what does not decode."""

    rows: list[dict[str, Any]]
    refused: list[tuple[Source, str, str]]


def state(store: Store, sources: Sequence[Source], where: str) -> dict[str, str]:
    """The signature of every source, for a stage's ``external``."""
    return {
        f"{s.dataset}/{s.split}": _told(lambda s=s: signature(address(store.root, s.uri)), s, where) for s in sources
    }


def pack(run: StageRun, sources: Sequence[Source]) -> Packed:
    """Read and pack ``sources``; the order of rows is that of the sources and their items."""
    tasks: dict[str, dict[str, Any]] = {}
    owner: dict[str, Source] = {}
    for number, source in enumerate(sources):
        uri = address(run.store.root, source.uri)
        groups = _told(ImageSet(uri, source.labels).groups, source, run.where)
        for part, names in enumerate(groups):
            key = f"{number:03d}-{part:05d}"
            owner[key] = source
            tasks[key] = {
                "uri": uri,
                "labels": source.labels,
                "names": names,
                "folder": run.folder,
                "rows": run.scratch(f"rows-{key}.parquet"),
            }
    summaries = run.map(_pack, tasks, label="sets", unit=lambda s: int(s["images"]))
    rows: list[dict[str, Any]] = []
    refused: list[tuple[Source, str, str]] = []
    for key, summary in zip(sorted(tasks), summaries, strict=True):
        source = owner[key]
        found = run.store.read_table(tasks[key]["rows"]).to_pylist()
        rows += [{**row, "dataset": source.dataset, "split": source.split} for row in found]
        refused += [(source, item, reason) for item, reason in summary["refused"]]
    for source in sources:
        if not any(row["dataset"] == source.dataset and row["split"] == source.split for row in rows):
            raise UserError(
                "no image there decodes",
                where=f"{run.where}: {source.dataset}, {source.uri}",
                todo="check the files, or remove the set from the settings",
            )
    return Packed(rows, refused)


def class_counts(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """``classes`` and ``classes_with_one_image`` of labelled rows."""
    sizes: dict[tuple[str, str, str], int] = {}
    for row in rows:
        if row["label"] is not None:
            name = (row["dataset"], row["split"], row["label"])
            sizes[name] = sizes.get(name, 0) + 1
    return {"classes": len(sizes), "classes_with_one_image": sum(1 for size in sizes.values() if size == 1)}


def _pack(task: Mapping[str, Any]) -> dict[str, Any]:
    """Pack one group of a set; its rows go to the scratch table that the task names."""
    store = Store(task["root"])
    rows: list[dict[str, Any]] = []
    refused: list[tuple[str, str]] = []
    with ShardWriter(store, task["folder"]) as writer:
        for item in ImageSet(task["uri"], task["labels"]).read(task["names"]):
            decoded = decode(item.data)
            if isinstance(decoded, Refused):
                refused.append((item.key, decoded.reason))
                continue
            name = writer.add(item.data, EXTENSIONS[decoded.format])
            rows.append({"image_id": name, "label": item.label, "key": item.key})
    located = [{**row, **writer.locations[row["image_id"]]} for row in rows]
    store.write_table(task["rows"], tables.from_rows(located, tables.LABELLED))
    return {"files": writer.files, "images": len(rows), "refused": refused}


def _told(make: Any, source: Source, where: str) -> Any:
    """``make()``, its errors naming the stage and the set."""
    try:
        return make()
    except UserError as error:
        raise UserError(
            error.what, where=f"{where}: set '{source.dataset}', split '{source.split}', {error.where}", todo=error.todo
        ) from error
