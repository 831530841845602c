"""A stage's training in several processes, whoever starts them: what each does, and what the stage does meanwhile.

The stage writes which images there are to its scratch folder and has the launcher start the processes. They train
together as any others do; the first leaves a small file for each logged step, which the stage passes on to its tracker.
At the end the stage reads the last checkpoint, as a training would that goes on from it. Training in this process is in
``training``.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import nn

from dinov2_core.errors import UserError
from dinov2_core.images.index import index_table
from dinov2_core.stage import StageRun
from dinov2_core.storage import Store
from dinov2_core.stored_checkpoints import StoredCheckpoints
from dinov2_core.tracker import Tracker
from dinov2_core.train import launch
from dinov2_core.train.loader import LoaderConfig
from dinov2_core.train.recipe import EfficiencyConfig, Recipe
from dinov2_core.train.trainer import Trained, train
from dinov2_core.training_data import Place, TrainingData, open_data

_LOOK_EVERY = 1.0
"""Seconds between two looks for steps that were logged."""


@dataclass(frozen=True)
class Work:
    """One training of a stage, and what each of its processes is told. Paths below ``scratch`` are the store's."""

    root: str
    scratch: str
    folder: Path
    """of the checkpoints, which all processes share"""
    recipe: Recipe
    prepared_size: int
    checkpoint_every: int
    log_every: int
    workers: int
    efficiency: EfficiencyConfig
    teacher: nn.ModuleDict | None
    initial: Mapping[str, torch.Tensor] | None
    where: str

    @property
    def store(self) -> Store:
        return Store(self.root)

    @property
    def rows(self) -> str:
        return f"{self.scratch}-images.parquet"

    @property
    def steps(self) -> str:
        return f"{self.scratch}-steps"

    @property
    def refused(self) -> str:
        return f"{self.scratch}-refused"

    def open(self, index: Path, rows: pa.Table, place: Place = Place()) -> TrainingData:
        """Batches from the images at ``rows``, for the process at ``place``; ``index`` is an empty folder."""
        return open_data(
            index_table(index, self.store, rows),
            self.recipe,
            prepared_size=self.prepared_size,
            loader=LoaderConfig(workers=self.workers),
            place=place,
            where=self.where,
        )

    def train(self, batches: Any, device: torch.device | str, tracker: Tracker) -> Trained:
        return train(
            self.recipe,
            batches,
            teacher=self.teacher,
            initial=self.initial,
            efficiency=self.efficiency,
            device=device,
            tracker=tracker,
            folder=self.folder,
            checkpoint_every=self.checkpoint_every,
            copies=None if self.store.local else StoredCheckpoints(self.store, self.scratch),
            log_every=self.log_every,
            label=self.where,
        )


def train_together(run: StageRun, work: Work, rows: pa.Table, tracker: Tracker) -> tuple[Trained, dict[str, int]]:
    """Train on the images at ``rows`` (each once, in order) by ``run.launcher``: as ``training.train_on`` does.

    Raises:
        UserError: several machines and no folder that they share; and what the training itself raises.
    """
    if not (run.store.local or run.launcher.one_machine):
        raise UserError(
            "processes on several machines write a checkpoint together, and the data root is no folder",
            where=run.where,
            todo="train on one machine, or have the data root on a file system that all machines mount",
        )
    run.store.write_table(work.rows, rows)
    with _told(work, tracker):
        images = int(run.launcher.run(one_process, work))
    trained = work.train(_no_batch, "cuda" if torch.cuda.is_available() else "cpu", lambda step, metrics: None)
    return trained, {"images": images, "undecodable": len(_all_refused(work))}


def one_process(work: Work) -> int:
    """What every process does: train on its rows of each batch. Returns how many images can be drawn."""
    with launch.joined() as process, tempfile.TemporaryDirectory() as index:
        place = Place(process.rank, process.world, process.local_world, process.device)
        data = work.open(Path(index), work.store.read_table(work.rows), place)

        def note(step: int, metrics: Mapping[str, float]) -> None:
            with contextlib.suppress(Exception):
                work.store.write_bytes(f"{work.steps}/{step:08d}.json", json.dumps(dict(metrics)).encode())

        try:
            work.train(data.batches, process.device, note)
        finally:
            data.batches.close()
            own = f"{work.refused}/{process.rank:05d}.json"
            earlier = json.loads(work.store.read_bytes(own)) if work.store.exists(own) else {}
            work.store.write_bytes(own, json.dumps(earlier | data.refused()).encode())
        return data.images


def _all_refused(work: Work) -> dict[str, str]:
    """Name → reason, of every image that a process found not to decode."""
    found: dict[str, str] = {}
    for path in work.store.find(work.refused):
        found |= json.loads(work.store.read_bytes(path))
    return found


@contextlib.contextmanager
def _told(work: Work, tracker: Tracker) -> Iterator[None]:
    """Pass steps on to ``tracker`` as they are logged, each once, while inside; trackers bear repetition."""
    # Those of an earlier attempt too: it may have been killed between a step's file and telling of it.
    seen, ended = set[str](), threading.Event()

    def look() -> None:
        for path in sorted(set(work.store.find(work.steps)) - seen):
            tracker(int(Path(path).stem), json.loads(work.store.read_bytes(path)))
            seen.add(path)

    def watch() -> None:
        while not ended.wait(_LOOK_EVERY):
            # A store that is away for a moment has its steps told later.
            with contextlib.suppress(Exception):
                look()

    thread = threading.Thread(target=watch, name="steps of a training", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with contextlib.suppress(Exception):
            look()


def _no_batch(step: int) -> Any:
    raise RuntimeError(f"the processes ended, but their last checkpoint is of step {step}")
