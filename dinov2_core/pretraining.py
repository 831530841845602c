"""One training from a folder of images to weights, resumable: what ``dinov2 pretrain`` does.

The folder of a run holds ``recipe.json`` and ``state/`` from the start, and at the end ``teacher.safetensors``
(backbone and configuration), ``network.safetensors`` (the averaged network with its heads, to go on from or to distil
from), ``history.csv``, ``refused.parquet`` and ``summary.json``. Options are read in ``commands/pretrain.py``.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
import torch.distributed as dist
from torch import nn

from dinov2_core import config
from dinov2_core.errors import UserError
from dinov2_core.images.index import index_set
from dinov2_core.model import weights
from dinov2_core.model.mismatch import load_strict
from dinov2_core.model.preprocessing import Preprocessing
from dinov2_core.storage import Store
from dinov2_core.train import checkpoint, initial, launch, recipes
from dinov2_core.train.loader import LoaderConfig
from dinov2_core.train.metrics import line
from dinov2_core.train.objective import build_network
from dinov2_core.train.recipe import EfficiencyConfig, Recipe, override
from dinov2_core.train.trainer import Trained, train
from dinov2_core.training_data import Place, TrainingData, open_data

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
    efficiency: EfficiencyConfig = field(default_factory=EfficiencyConfig)
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
    with launch.joined() as process:
        return _pretrain(request, process)


def _pretrain(request: Request, process: launch.Process) -> dict[str, Any]:
    start, out = start_of(request), request.out
    out.mkdir(parents=True, exist_ok=True)
    if process.rank == 0:
        _keep_recipe(out / initial.RECIPE, start.recipe)
        index_set(out / "index", request.data)
    _wait(process)
    index = index_set(out / "index", request.data)
    place = Place(process.rank, process.world, process.local_world, process.device)
    data = open_data(index, start.recipe, loader=request.loader, place=place, where="dinov2 pretrain")
    if process.rank == 0:
        print(f"data: {data.how}", flush=True)
    try:
        trained = train(
            start.recipe,
            data.batches,
            teacher=start.teacher,
            initial=start.tensors,
            efficiency=request.efficiency,
            device=process.device,
            tracker=lambda step, found: print(line(step, start.recipe.steps, found, start.recipe), flush=True),
            folder=out / "state",
            checkpoint_every=request.checkpoint_every,
            log_every=request.log_every,
            data=index.digest,
            label="pretrain",
        )
    finally:
        data.batches.close()
        _write_refused(out, data, process.rank)
    _wait(process)
    # Processes that train together each hold a part; all must take part in putting it together.
    tensors = checkpoint.whole({k: v.detach() for k, v in trained.objective.average.state_dict().items()})
    return _finished(out, start.recipe, trained, tensors, data) if process.rank == 0 else {}


def _wait(process: launch.Process) -> None:
    if process.world > 1:
        dist.barrier()


def _keep_recipe(path: Path, recipe: Recipe) -> None:
    text = json.dumps(config.to_plain(recipe), indent=1, sort_keys=True)
    if path.exists() and json.loads(path.read_text()) != json.loads(text):
        raise UserError(
            "this folder holds the run of another recipe", where=str(path), todo="use another --out, or delete this one"
        )
    Store(str(path.parent)).write_bytes(path.name, text.encode())


def _write_refused(out: Path, data: TrainingData, rank: int) -> None:
    """The refused images met by this and earlier calls; a file a process, put together at the end."""
    store, name = Store(str(out)), f"refused/{rank:05d}.parquet"
    rows = data.refused()
    if store.exists(name):
        rows = _read_refused(store, [name]) | rows
    store.write_table(name, _table(rows))


def _read_refused(store: Store, names: list[str]) -> dict[str, str]:
    return {row["name"]: row["reason"] for name in names for row in store.read_table(name).to_pylist()}


def _table(rows: Mapping[str, str]) -> pa.Table:
    schema = pa.schema([("name", pa.string()), ("reason", pa.string())])
    return pa.Table.from_pylist([{"name": name, "reason": rows[name]} for name in sorted(rows)], schema=schema)


def _finished(
    out: Path, recipe: Recipe, trained: Trained, tensors: dict[str, torch.Tensor], data: TrainingData
) -> dict[str, Any]:
    store = Store(str(out))
    network = build_network(recipe.model, recipe.dino_head, recipe.ibot_head)
    tensors = {k: v.cpu().contiguous() for k, v in tensors.items()}
    load_strict(network, tensors, where=str(out))
    backbone = network["backbone"]
    preprocessing = Preprocessing(recipe.model.image_size, recipe.crops.mean, recipe.crops.std)
    store.write_bytes("teacher.safetensors", weights.to_bytes(backbone, preprocessing))  # type: ignore[arg-type]
    lines = io.StringIO()
    csv.writer(lines).writerows([("step", "name", "value"), *trained.history])
    store.write_bytes("history.csv", lines.getvalue().encode())
    refused = _read_refused(store, store.find("refused"))
    store.write_table("refused.parquet", _table(refused))
    last = {name: value for _, name, value in trained.history}
    summary = {
        "images": data.images,
        "refused": len(refused),
        "steps": recipe.steps,
        "batch": recipe.batch,
        "parameters": sum(p.numel() for p in backbone.parameters()),
        "loss": round(last["total"], 4) if "total" in last else None,
        "weights": str(out / "teacher.safetensors"),
    }
    store.write_bytes("summary.json", json.dumps(summary, indent=1).encode())
    # Last: who finds it may rely on all the rest.
    checkpoint.save(out / initial.NETWORK, tensors, {"recipe": config.to_plain(recipe)})
    return summary
