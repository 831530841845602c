"""The state of a run in one file: networks with heads, optimiser, centers, step. Safetensors, atomic, byte-stable.

Batches and random draws are functions of (seed, step), so the step is all that a resumed run needs of them.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from dinov2_core.errors import DamagedDataError
from dinov2_core.train.objective import Objective

_SUFFIX = ".safetensors"


def state_tensors(objective: Objective, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """All tensors of a run's state under flat names: ``student.…``, ``average.…``, ``optimizer.exp_avg.NAME``, …"""
    tensors = {k: v.detach().contiguous() for k, v in objective.state_dict().items()}
    for name, parameter in objective.student.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{key}.{name}"] = value
    return tensors


def restore(objective: Objective, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put :func:`state_tensors` back, in place; strict about names."""
    objective.load_state_dict({k: v for k, v in tensors.items() if not k.startswith("optimizer.")}, strict=True)
    for name, parameter in objective.student.named_parameters():
        state = {
            key: tensors[f"optimizer.{key}.{name}"].clone()
            for key in ("step", "exp_avg", "exp_avg_sq")
            if f"optimizer.{key}.{name}" in tensors
        }
        if state:
            optimizer.state[parameter] = state


def save(path: Path, tensors: dict[str, Tensor], note: dict[str, Any]) -> None:
    """Write a file atomically. ``note`` is one JSON value in its header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    # One metadata key only: the order of several is not defined, and equal runs must give equal bytes.
    save_file(tensors, temporary, metadata={"note": json.dumps(note, sort_keys=True)})
    with open(temporary, "rb+") as f:
        os.fsync(f.fileno())
    os.replace(temporary, path)


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """``(tensors, note)`` of a file written by :func:`save`."""
    try:
        with safe_open(path, "pt") as f:
            return {key: f.get_tensor(key) for key in f.keys()}, json.loads((f.metadata() or {}).get("note", "{}"))  # noqa: SIM118
    except Exception as error:
        raise DamagedDataError(f"not a readable checkpoint ({error})", where=str(path), todo="delete it") from error


def step_path(folder: Path, step: int) -> Path:
    """The name of the checkpoint after ``step`` steps; names sort as steps do."""
    return folder / f"step-{step:08d}{_SUFFIX}"


def latest(folder: Path) -> Path | None:
    """The newest complete checkpoint of a folder; half-written ones have another name and are not seen."""
    found = sorted(folder.glob(f"step-*{_SUFFIX}"))
    return found[-1] if found else None


def prune(folder: Path, keep: int) -> None:
    """Remove all but the newest ``keep`` checkpoints, and what killed writers left."""
    for path in [*sorted(folder.glob(f"step-*{_SUFFIX}"))[:-keep], *folder.glob(".tmp-*")]:
        path.unlink(missing_ok=True)
