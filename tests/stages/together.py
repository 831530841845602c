"""A stage's training by any launcher, on a few drawn pictures of which one does not decode."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from dinov2_core.launcher import Launcher
from dinov2_core.manifest import Manifest
from dinov2_core.storage import Store
from tests.stages import learner

TRAINING = {**learner.TRAINING, "overrides": {**learner.TINY, "precision": "float32"}}
"""Sums in bfloat16 depend more on how a batch is cut."""
BROKEN = {"data": b"\x89PNG\r\n\x1a\nno picture", "source": "s"}


def pretrained(folder: Path, launcher: Launcher) -> tuple[Store, Manifest, list[tuple[int, Mapping[str, float]]]]:
    """The store, the manifest of ``pretrained_checkpoint`` and what its tracker was told."""
    store, told = Store(str(folder)), list[tuple[int, Mapping[str, float]]]()
    packed = [{"data": data, "source": "s"} for data, _ in learner.pictures(20, 2)]
    learner.put(store, "curated_lvd", packed=[*packed, dict(BROKEN)])

    def tell(step: int, metrics: Mapping[str, float]) -> None:
        told.append((step, metrics))

    made = learner.make(store, "pretrained_checkpoint", TRAINING, tracker=tell, launcher=launcher)
    return store, made, told


def losses(store: Store, made: Manifest) -> list[float]:
    (history,) = made.table("history")
    return [r["value"] for r in store.read_table(history.path).to_pylist() if r["name"] == "total"]


def recipe(store: Store, made: Manifest) -> bytes:
    (path,) = [f.path for f in made.files if "/recipe-" in f.path]
    return store.read_bytes(path)
