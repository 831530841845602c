"""Measuring, on the pool itself, which similarity and alignment make a copy: used by ``deduplicated_set``.

A sample of the pool is copied in known ways, the copies are embedded and searched in the pool like any image, and the
rule is fitted to what was found. The fit itself is in ``curation/copy_rule``, the kinds of copies in
``curation/planting``, the scoring that the commands share in ``curation/calibration``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np

from dinov2_core.curation import blur, planting, vectors
from dinov2_core.curation.calibration import score
from dinov2_core.curation.copy_detection import CopyEmbedder
from dinov2_core.curation.copy_rule import Scores
from dinov2_core.curation.vectors import Rows
from dinov2_core.errors import UserError
from dinov2_core.images.decode import Decoded, decode
from dinov2_core.images.shards import ShardWriter, read_images
from dinov2_core.stage import StageRun
from dinov2_core.stages.pair_alignment import align_pairs
from dinov2_core.storage import Store

_PER_TASK = 50


@dataclass(frozen=True)
class Measured:
    """Scores of planted copies with their originals and with unrelated images, and how many unrelated were compared."""

    copies: Scores
    others: Scores
    compared: int
    kinds: np.ndarray


def measure(
    run: StageRun, ids: np.ndarray, matrix: Rows, locations: Mapping[str, Any], *, sample: int, floor: float
) -> Measured:
    """Plant two copies of each of ``sample`` pool images and score them against the pool.

    ``ids`` [N] and ``matrix`` float32 [N, D] are the pool's copy embeddings, ``locations`` its images' by id.
    """
    model, side = _embedder(run)
    chosen = np.sort(np.random.default_rng(0).permutation(len(ids))[:sample])
    origin, kinds, copies, places = _planted(run, chosen, [locations[ids[i]] for i in chosen], model, side)
    calls = count()

    def place(index: int) -> Mapping[str, Any]:
        return locations[ids[index]] if index < len(ids) else places[index - len(ids)]

    def align(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        pairs = [(place(i), place(j)) for i, j in zip(a.tolist(), b.tolist(), strict=True)]
        return align_pairs(run, pairs, name=f"align-{next(calls)}")

    # No check of fine detail: it takes look-alikes of 32 pixels for copies, and the rule then joins what it must not.
    found = score(copies, origin, matrix, align, floor=floor, verify=None)
    return Measured(found.copies, found.others, found.compared, kinds)


def _embedder(run: StageRun) -> tuple[str, int]:
    """Model and side that all batches were embedded with."""
    used = {(str(m.params["model"]), int(m.params["side"])) for m in run.manifests("copy_embeddings")}
    if len(used) != 1:
        raise UserError(
            f"batches were embedded in {len(used)} different ways: {sorted(used)}",
            where=run.where,
            todo="materialise copy_embeddings for all batches with the same settings",
        )
    return used.pop()


def _planted(
    run: StageRun, chosen: np.ndarray, images: list[Mapping[str, Any]], model: str, side: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
    """``(index of the original, kind, embedding, location)`` of every planted copy."""
    tasks: dict[str, dict[str, Any]] = {}
    for start in range(0, len(images), _PER_TASK):
        key = f"plant-{start // _PER_TASK:05d}"
        some = [dict(image, seed=start + i) for i, image in enumerate(images[start : start + _PER_TASK])]
        tasks[key] = {"images": some, "model": model, "side": side, "folder": run.scratch(key)}
    done = run.map(_plant, tasks, label="planted copies", unit=lambda s: len(s["locations"]), total=2 * len(images))
    places = [place for summary in done for place in summary["locations"]]
    parts = [run.store.read_table(f"{task['folder']}/embeddings.parquet") for task in tasks.values()]
    copies = np.concatenate([vectors.from_table(part)[1] for part in parts])
    index = np.repeat(np.arange(len(images)), 2)
    which = np.array([planting.kind_of(i, turn, planting.ALIGNABLE) for i in range(len(images)) for turn in (0, 1)])
    return chosen[index], which, copies, places


def _plant(task: Mapping[str, Any]) -> dict[str, Any]:
    store = Store(task["root"])
    embedder = CopyEmbedder(task["model"], side=task["side"])
    copies, names = [], []
    with ShardWriter(store, task["folder"]) as writer:
        for image, data in zip(task["images"], read_images(store, task["images"]), strict=True):
            decoded = decode(data)
            assert isinstance(decoded, Decoded)
            for turn in (0, 1):
                seed = 2 * image["seed"] + turn
                kind = planting.kind_of(image["seed"], turn, planting.ALIGNABLE)
                copies.append(planting.plant(decoded.pixels, kind, seed))
                # Losslessly: the planted kinds are the only changes.
                names.append(writer.add(*blur.encode(copies[-1], "PNG"), identity=str(seed)))
    store.write_table(f"{task['folder']}/embeddings.parquet", vectors.to_table(names, embedder(copies)))
    return {"locations": [writer.locations[name] for name in names]}
