"""What the training stages share: settings to recipe, stored images to batches, results to files.

The training itself is in ``train``.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import nn

from dinov2_core import config, tables
from dinov2_core.errors import UserError
from dinov2_core.launcher import InProcess
from dinov2_core.model import weights
from dinov2_core.model.preprocessing import Preprocessing
from dinov2_core.model.vision_transformer import VisionTransformer
from dinov2_core.stage import StageRun
from dinov2_core.stages import training_processes
from dinov2_core.storage import Store
from dinov2_core.tracker import TellsTrainingsApart, Tracker
from dinov2_core.train import checkpoint
from dinov2_core.train.objective import build_network
from dinov2_core.train.recipe import EfficiencyConfig, Recipe
from dinov2_core.train.trainer import Trained


def preprocessing_of(recipe: Recipe) -> Preprocessing:
    """How images are prepared for a backbone trained by ``recipe``."""
    return Preprocessing(recipe.model.image_size, recipe.crops.mean, recipe.crops.std)


def train_on(
    run: StageRun,
    recipe: Recipe,
    rows: pa.Table,
    *,
    prepared_size: int,
    checkpoint_every: int,
    log_every: int,
    workers: int = -1,
    efficiency: EfficiencyConfig = EfficiencyConfig(),
    teacher: nn.ModuleDict | None = None,
    initial: Mapping[str, torch.Tensor] | None = None,
    part: str = "checkpoints",
    tracked_as: str = "",
) -> tuple[Trained, dict[str, int]]:
    """Train on the images at ``rows``, resuming from the run's scratch folder: ``(result, counts)``.

    In this process, or in several where the run's launcher starts more (``training_processes``).

    On an object store checkpoints are written to this machine's disk and copied to the scratch folder from there.

    Images are taken in order of id, each once, whatever the order of the rows.

    Args:
        rows: a table with ``image_id``, ``shard``, ``offset``, ``length``.
        prepared_size: hold all images in memory as squares of this side; 0 lets their number and size decide.
        part: the folder of this training's checkpoints, where a stage has several trainings.
        tracked_as: the name under which this training is tracked below the stage's; empty where it is the stage's own.
    """
    folder = run.local_scratch(part)
    tracking: AbstractContextManager[Tracker] = nullcontext(run.tracker)
    if isinstance(run.tracker, TellsTrainingsApart):
        tracking = run.tracker.begin(tracked_as, config.to_plain(recipe), folder)
    work = training_processes.Work(
        root=run.store.root,
        scratch=run.scratch(part),
        folder=folder,
        recipe=recipe,
        prepared_size=prepared_size,
        checkpoint_every=checkpoint_every,
        log_every=log_every,
        workers=workers,
        efficiency=efficiency,
        teacher=teacher,
        initial=initial,
        where=run.where,
    )
    if not isinstance(run.launcher, InProcess):
        with tracking as tracker:
            return training_processes.train_together(run, work, _each_once(rows), tracker)
    with tempfile.TemporaryDirectory() as index, tracking as tracker:
        data = work.open(Path(index), _each_once(rows))
        try:
            trained = work.train(data.batches, "cuda" if torch.cuda.is_available() else "cpu", tracker)
        finally:
            data.batches.close()
        return trained, {"images": data.images, "undecodable": len(data.refused())}


def _each_once(rows: pa.Table) -> pa.Table:
    """The rows in order of image id, the first of each."""
    ordered = rows.sort_by([("image_id", "ascending"), ("shard", "ascending"), ("offset", "ascending")])
    ids = ordered["image_id"].combine_chunks()
    first = np.ones(len(ids), dtype=bool)
    first[1:] = pc.not_equal(ids[1:], ids[:-1]).to_numpy(zero_copy_only=False)
    return ordered.filter(first)


def write_backbone(run: StageRun, stem: str, backbone: nn.Module, recipe: Recipe) -> None:
    """Write ``STEM-….safetensors``: weights with their configuration."""
    assert isinstance(backbone, VisionTransformer)
    run.write_file(stem, "safetensors", weights.to_bytes(backbone, preprocessing_of(recipe)))


def write_state(run: StageRun, trained: Trained, recipe: Recipe, suffix: str = "") -> None:
    """Write ``state-….safetensors``: both networks with heads, optimiser and centers; and ``recipe-….json``.

    Where a stage has several trainings, ``suffix`` follows both stems.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state"
        checkpoint.save(path, trained.tensors(), {"recipe": config.to_plain(recipe), "step": recipe.steps})
        run.write_file(f"state{suffix}", "safetensors", path.read_bytes())
    run.write_file(f"recipe{suffix}", "json", json.dumps(config.to_plain(recipe), indent=1, sort_keys=True).encode())


def write_history(run: StageRun, trained: Trained, part: int = 0, prefix: str = "") -> None:
    """Write a part of the table ``history``: one row a logged step and quantity, named with ``prefix``."""
    rows = [{"step": step, "name": prefix + name, "value": value} for step, name, value in trained.history]
    run.write_table("history", tables.from_rows(rows, tables.HISTORY), part)


def last_values(trained: Trained, names: Sequence[str] = ("total", "dino_global", "ibot", "koleo")) -> dict[str, float]:
    """The last logged values, rounded to what a reader wants to see."""
    found = {name: value for _, name, value in trained.history}
    return {f"loss_{name}": round(found[name], 4) for name in names if name in found}


def output_path(run: StageRun, stage: str, stem: str, suffix: str) -> str:
    """The path of the one file ``STEM-….SUFFIX`` of an upstream stage."""
    for manifest in run.manifests(stage):
        for record in manifest.files:
            name = record.path.rsplit("/", 1)[-1]
            if name.startswith(f"{stem}-") and name.endswith(f".{suffix}"):
                return record.path
    raise UserError(f"{stage} has no file '{stem}'", where=run.where, todo=f"materialise {stage} again")


def read_backbone(store: Store, path: str) -> tuple[VisionTransformer, Preprocessing]:
    """The backbone stored at ``path``."""
    return weights.from_bytes(store.read_bytes(path), where=f"{store.root}/{path}")


def read_recipe(run: StageRun, stage: str) -> Recipe:
    """The recipe that an upstream training stage used."""
    text = run.store.read_bytes(output_path(run, stage, "recipe", "json"))
    return config.build(Recipe, json.loads(text), where=stage)


def read_teacher(run: StageRun, stage: str, recipe: Recipe) -> nn.ModuleDict:
    """The averaged network with its heads from an upstream stage's full state."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state"
        path.write_bytes(run.store.read_bytes(output_path(run, stage, "state", "safetensors")))
        tensors, _ = checkpoint.load(path)
    network = build_network(recipe.model, recipe.dino_head, recipe.ibot_head)
    prefix = "average."
    own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    weights.load_strict(network, own, where=f"{stage}: state")
    return network


def untrained_backbone(recipe: Recipe) -> VisionTransformer:
    """The backbone as it was before the first step: the control of every claim about training."""
    torch.manual_seed(recipe.seed)
    backbone = build_network(recipe.model, recipe.dino_head, recipe.ibot_head)["backbone"]
    assert isinstance(backbone, VisionTransformer)
    return backbone.eval()


def normalised_float16(features: torch.Tensor) -> np.ndarray:
    """``[N, D]`` L2-normalised, as stored."""
    return torch.nn.functional.normalize(features, dim=1).numpy().astype(np.float16)
