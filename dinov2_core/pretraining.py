"""One training from a folder of images to weights, resumable: what ``dinov2 pretrain`` does.

The folder of a run holds ``recipe.json`` and ``state/`` from the start, and at the end ``teacher.safetensors``
(backbone and configuration), ``network.safetensors`` (the averaged network with its heads, to go on from or to distil
from), ``history.csv``, ``refused.parquet`` and ``summary.json``. Options are read in ``commands/pretrain.py``.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import nn

from dinov2_core import config
from dinov2_core.errors import UserError
from dinov2_core.images.index import index_set
from dinov2_core.model import weights
from dinov2_core.model.preprocessing import Preprocessing
from dinov2_core.storage import Store
from dinov2_core.train import checkpoint, initial, recipes
from dinov2_core.train.loader import LoaderConfig
from dinov2_core.train.recipe import Recipe, override
from dinov2_core.train.trainer import Trained, train
from dinov2_core.training_data import TrainingData, open_data

_LATER = ("steps", "optim.base_lr")
"""Settings of the stage itself where it is derived: they are not compressed with the schedules."""


@dataclass(frozen=True)
class Request:
    """What to train, on what, from what."""

    recipe: str
    data: str
    out: Path
    init: str = ""
    """a checkpoint to start from"""
    teacher: str = ""
    """a checkpoint with heads to distil from"""
    student: str = "vit_small"
    high_resolution: int = 0
    """side in pixels of the high-resolution stage; needs ``init``"""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """dotted settings of the recipe"""
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    log_every: int = 10
    checkpoint_every: int = 1000


@dataclass(frozen=True)
class Start:
    """A recipe with what it starts from and who teaches it."""

    recipe: Recipe
    tensors: dict[str, torch.Tensor] | None = None
    teacher: nn.ModuleDict | None = None


def start_of(request: Request) -> Start:
    """The recipe with its settings replaced, and the networks that the request names.

    The shapes of a checkpoint hold: nobody has to repeat them as settings.

    Raises:
        UserError: an unknown recipe, setting or shape; a checkpoint that cannot be read or does not fit.
    """
    recipe, changes = recipes.get(request.recipe), dict(request.changes)
    if request.teacher:
        if request.high_resolution:
            raise UserError("--teacher and --high-resolution exclude each other", todo="distil first")
        taught = initial.read(request.teacher)
        module = taught.module()
        derived = override(recipes.distil(taught.shaped(recipe), request.student), changes)
        return Start(derived, _fitted(request.init, derived), module)
    if request.init:
        recipe = initial.read(request.init).shaped(recipe)
    if request.high_resolution:
        if not request.init:
            raise UserError("the high-resolution stage goes on from a trained network", todo="name it with --init")
        own = {key: changes.pop(key) for key in _LATER if key in changes}
        recipe = override(recipe, changes)
        stage = override(recipe, own)
        steps = stage.steps if "steps" in own else 10_000
        base_lr = stage.optim.base_lr if "optim.base_lr" in own else None
        recipe = recipes.high_resolution(recipe, request.high_resolution, steps, base_lr)
    else:
        recipe = override(recipe, changes)
    return Start(recipe, _fitted(request.init, recipe))


def _fitted(path: str, recipe: Recipe) -> dict[str, torch.Tensor] | None:
    return initial.fitted(initial.read(path), recipe) if path else None


def pretrain(request: Request) -> dict[str, Any]:
    """Train, or go on where an earlier call with the same recipe stopped; the summary that is written last.

    Raises:
        UserError: whatever a person can mend: data, settings, checkpoints, a folder of another recipe.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("the trainer takes one process so far", where="dinov2 pretrain", todo="run it without torchrun")
    start, out = start_of(request), request.out
    out.mkdir(parents=True, exist_ok=True)
    _keep_recipe(out / initial.RECIPE, start.recipe)
    data = open_data(
        index_set(out / "index", request.data), start.recipe, loader=request.loader, where="dinov2 pretrain"
    )
    print(f"data: {data.how}", flush=True)
    try:
        trained = train(
            start.recipe,
            data.batches,
            teacher=start.teacher,
            initial=start.tensors,
            tracker=_say(start.recipe),
            folder=out / "state",
            checkpoint_every=request.checkpoint_every,
            log_every=request.log_every,
            label="pretrain",
        )
    finally:
        data.batches.close()
        _write_refused(out, data)
    return _finished(out, start.recipe, trained, data)


def _keep_recipe(path: Path, recipe: Recipe) -> None:
    text = json.dumps(config.to_plain(recipe), indent=1, sort_keys=True)
    if path.exists() and json.loads(path.read_text()) != json.loads(text):
        raise UserError(
            "this folder holds the run of another recipe", where=str(path), todo="use another --out, or delete this one"
        )
    Store(str(path.parent)).write_bytes(path.name, text.encode())


def _say(recipe: Recipe) -> Any:
    def say(step: int, metrics: Mapping[str, float]) -> None:
        shown = ("total", "dino_local", "dino_global", "ibot", "koleo")
        losses = "  ".join(f"{name} {metrics[name]:.4f}" for name in shown)
        print(f"step {step + 1}/{recipe.steps}  {losses}  lr {metrics['lr']:.2e}", flush=True)

    return say


def _write_refused(out: Path, data: TrainingData) -> None:
    """The refused images met by this and earlier calls."""
    store, rows = Store(str(out)), data.refused()
    if store.exists("refused.parquet"):
        rows = {row["name"]: row["reason"] for row in store.read_table("refused.parquet").to_pylist()} | rows
    columns = {"name": pa.array(sorted(rows), pa.string()), "reason": pa.array([rows[n] for n in sorted(rows)])}
    store.write_table("refused.parquet", pa.table({k: v.cast(pa.string()) for k, v in columns.items()}))


def _finished(out: Path, recipe: Recipe, trained: Trained, data: TrainingData) -> dict[str, Any]:
    store, network = Store(str(out)), trained.objective.average
    backbone = network["backbone"]
    preprocessing = Preprocessing(recipe.model.image_size, recipe.crops.mean, recipe.crops.std)
    store.write_bytes("teacher.safetensors", weights.to_bytes(backbone, preprocessing))  # type: ignore[arg-type]
    lines = io.StringIO()
    csv.writer(lines).writerows([("step", "name", "value"), *trained.history])
    store.write_bytes("history.csv", lines.getvalue().encode())
    last = {name: value for _, name, value in trained.history}
    summary = {
        "images": data.images,
        "refused": store.read_table("refused.parquet").num_rows,
        "steps": recipe.steps,
        "batch": recipe.batch,
        "parameters": sum(p.numel() for p in backbone.parameters()),
        "loss": round(last["total"], 4) if "total" in last else None,
        "weights": str(out / "teacher.safetensors"),
    }
    store.write_bytes("summary.json", json.dumps(summary, indent=1).encode())
    # Last: who finds it may rely on all the rest.
    tensors = {k: v.detach().contiguous() for k, v in network.state_dict().items()}
    checkpoint.save(out / initial.NETWORK, tensors, {"recipe": config.to_plain(recipe)})
    return summary
