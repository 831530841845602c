"""The state of a run: networks with heads, optimiser, centers, step. In one file to ship, in a folder to resume from.

The file is safetensors, written atomically, equal bytes for equal states. The folder is torch's distributed checkpoint:
every process writes its shards while training goes on (``sharded_save``), and any number of processes reads them. It
gets its name ``step-…`` when all is written, so what a killed process leaves is never taken for a checkpoint. Neither
holds a pickle: one from elsewhere can be wrong, but it runs no code. Folders may have copies elsewhere
(``checkpoint_copies``), for machines whose disk may be lost.

Batches and random draws are functions of (seed, step), so the step is all that a resumed run needs of them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.state_dict_loader import load as load_sharded
from torch.distributed.tensor import DTensor

from dinov2_core.errors import DamagedDataError
from dinov2_core.losses.distributed import world_size
from dinov2_core.train import sharded_save
from dinov2_core.train.checkpoint_copies import Copies, Sender
from dinov2_core.train.objective import Objective

NOTE = "note.json"
"""In a checkpoint's folder, written last: what the training noted, and the size of each file."""
COPY_BYTES = 16 << 20
"""What is read at a time where a checkpoint is copied."""
_STEP = re.compile(r"step-(\d{8})")


def state_tensors(objective: Objective, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """All tensors of a run's state under flat names: ``student.…``, ``average.…``, ``optimizer.exp_avg.NAME``, …

    Sharded ones stay so; :func:`whole` gathers them.
    """
    tensors = {k: v.detach().contiguous() for k, v in objective.state_dict().items()}
    for name, parameter in objective.student.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{key}.{name}"] = value
    return tensors


def whole(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same with sharded tensors gathered; every process must call it."""
    full = {k: v.full_tensor() if isinstance(v, DTensor) else v for k, v in tensors.items()}
    return {k: v.cpu().contiguous() for k, v in full.items()}


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


@dataclass
class Folder:
    """The checkpoints of a run, one written at a time. Of processes that train together, all must call each method.

    As a context it lets a writing and a sending that have begun end, also where the training fails.
    """

    path: Path
    keep: int = 2
    """the newest that stay"""
    keep_every: int = 0
    """steps; multiples of it stay for good"""
    copies: Copies | None = None
    """where each checkpoint is copied to by the first process, and fetched from where it is newer than those here"""
    _sender: Sender | None = field(default=None, init=False)
    _writing: Future[None] | None = field(default=None, init=False)
    _executor: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1), init=False)

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *_: object) -> None:
        # No collectives here: on the way out of a failure the others may be elsewhere.
        self._executor.shutdown(wait=True)
        if self._sender is not None:
            self._sender.close()
            self._sender = None
            prune(self.path, self.keep, self.keep_every)

    def save(self, tensors: dict[str, Tensor], step: int, note: dict[str, Any]) -> None:
        """Copy ``tensors`` and begin to write them as the checkpoint after ``step`` steps.

        It gets its name the moment that all is written, whatever the training does then.
        """
        self.finish()
        temporary = self.path / f".tmp-{step_path(self.path, step).name}"
        if _first():
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        _meet()
        self._writing = sharded_save.start(
            self._executor, tensors, temporary, lambda: self._publish(temporary, step, note)
        )

    def finish(self) -> None:
        """Wait for the checkpoint that is being written."""
        if self._writing is not None:
            self._writing.result()
            self._writing = None
            _meet()

    def latest(self) -> Path | None:
        """The newest whole checkpoint, fetched where a copy is newer than those here; all processes wait for that.

        Raises:
            UserError: where copies are kept cannot be reached.
        """
        if self.copies is not None:
            if _first():
                _fetch(self.copies, self.path)
            _meet()
        return latest(self.path)

    def load(self, path: Path, objective: Objective, optimizer: torch.optim.Optimizer) -> None:
        """Put a checkpoint into ``objective`` and ``optimizer``, sharded as they are.

        Raises:
            DamagedDataError: it cannot be read, or holds other tensors.
        """
        try:
            reader = HuggingFaceStorageReader(str(path))
            known = reader.read_metadata().state_dict_metadata
            parameters = dict(objective.student.named_parameters())
            # The optimiser has no state before its first step; what the checkpoint has of it is made here.
            for name, parameter in parameters.items():
                if f"optimizer.step.{name}" in known:
                    zeros = {k: torch.zeros_like(parameter) for k in ("exp_avg", "exp_avg_sq")}
                    optimizer.state[parameter] = {"step": torch.zeros((), device=parameter.device), **zeros}
            tensors = state_tensors(objective, optimizer)
            if tensors.keys() != known.keys():
                raise ValueError(f"its tensors differ: {sorted(tensors.keys() ^ known.keys())[:3]}")
            load_sharded(tensors, storage_reader=reader, no_dist=world_size() == 1)
        except Exception as error:
            raise DamagedDataError(f"not a readable checkpoint ({error})", where=str(path), todo="delete it") from error

    def _publish(self, temporary: Path, step: int, note: dict[str, Any]) -> None:
        final = step_path(self.path, step)
        sizes = {p.name: p.stat().st_size for p in sorted(temporary.iterdir())}
        with open(temporary / NOTE, "w") as f:
            json.dump({"files": sizes, "note": note}, f, sort_keys=True)
            f.flush()
            os.fsync(f.fileno())
        shutil.rmtree(final, ignore_errors=True)
        os.replace(temporary, final)
        if self.copies is not None:
            if self._sender is None:
                self._sender = Sender(self.copies, lambda names: kept(names, self.keep, self.keep_every))
            self._sender.offer(final)
        # Asked for after the offer: whatever is taken up from now on is this one.
        busy = self._sender.busy if self._sender is not None else None
        prune(self.path, self.keep, self.keep_every, spare=[busy.name] if busy is not None else [])


def step_path(folder: Path, step: int) -> Path:
    """The name of the checkpoint after ``step`` steps; names sort as steps do."""
    return folder / f"step-{step:08d}"


def latest(folder: Path) -> Path | None:
    """The newest whole checkpoint of a folder; half-written and cut ones are passed over."""
    return next((path for path in reversed(_found(folder)) if is_whole(path)), None)


def is_whole(path: Path) -> bool:
    """Whether every file of a checkpoint is there at the size it was written with."""
    try:
        sizes = json.loads((path / NOTE).read_text())["files"]
        return all((path / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def read_note(path: Path) -> dict[str, Any]:
    """The note that a checkpoint was saved with."""
    note: dict[str, Any] = json.loads((path / NOTE).read_text())["note"]
    return note


def prune(folder: Path, keep: int, keep_every: int = 0, spare: Collection[str] = ()) -> None:
    """Remove all checkpoints but those that are :func:`kept`, and those named by ``spare``."""
    names = [path.name for path in _found(folder)]
    for name in set(names) - kept(names, keep, keep_every) - set(spare):
        shutil.rmtree(folder / name, ignore_errors=True)


def kept(names: list[str], keep: int, keep_every: int = 0) -> set[str]:
    """Of checkpoints' names, oldest first, the newest ``keep`` and those at multiples of ``keep_every`` steps."""
    return {*names[-keep:], *(name for name in names if keep_every and int(name.split("-")[1]) % keep_every == 0)}


def is_name(name: str) -> bool:
    """Whether a folder of this name would be a checkpoint."""
    return _STEP.fullmatch(name) is not None


def _fetch(copies: Copies, folder: Path) -> None:
    """Bring the newest whole copy if it is newer than what the folder has."""
    here = latest(folder)
    newer = [name for name in copies.names() if here is None or name > here.name]
    if not newer:
        return
    temporary = folder / f".tmp-{newer[-1]}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    copies.get(newer[-1], temporary)
    shutil.rmtree(folder / newer[-1], ignore_errors=True)
    os.replace(temporary, folder / newer[-1])


def _found(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if is_name(path.name))


def _first() -> bool:
    return world_size() == 1 or dist.get_rank() == 0


def _meet() -> None:
    if world_size() > 1:
        dist.barrier()
