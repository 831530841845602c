"""Starting several processes of this machine that train together, by torchrun's agent.

What a launcher is stands in ``dinov2_core/launcher.py``, with the one for this process alone. The processes find each
other by ``train.launch.joined``, whoever started them, so recipe and checkpoints are the same. A process that is lost
ends the others; all start again, and the training goes on from its last checkpoint. Several machines are in
``ray_train``.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from dinov2_core import errors
from dinov2_core.errors import UserError
from dinov2_core.launcher import Function

_ERROR = "error.json"


@dataclass(frozen=True)
class Torchrun:
    """``processes`` of this machine, as ``torchrun --standalone`` starts them; ``restarts`` after one is lost."""

    processes: int
    restarts: int = 3
    one_machine: ClassVar[bool] = True

    def run(self, function: Function, argument: Any) -> Any:
        from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.launcher.api import LaunchConfig, elastic_launch

        with tempfile.TemporaryDirectory() as folder:
            config = LaunchConfig(
                min_nodes=1,
                max_nodes=1,
                nproc_per_node=self.processes,
                rdzv_backend="c10d",
                rdzv_endpoint="localhost:0",
                max_restarts=self.restarts,
                monitor_interval=0.2,
                start_method="spawn",
                logs_specs=DefaultLogsSpecs(log_dir=folder),
            )
            # The processes share the machine's cores, as torchrun has it.
            threads = os.environ.get("OMP_NUM_THREADS")
            os.environ.setdefault("OMP_NUM_THREADS", "1")
            try:
                found = elastic_launch(config, _called)(function, argument, folder)
            except ChildFailedError as error:
                raise _cause(Path(folder)) or died(self.restarts, error.get_first_failure()[1].message) from error
            finally:
                if threads is None:
                    del os.environ["OMP_NUM_THREADS"]
            result, stopped = found[0]
            if stopped is not None:
                raise stopped
            return result


def _called(function: Function, argument: Any, folder: str) -> tuple[Any, Any]:
    """``(result, None)`` or ``(None, Preempted)``; a user's error is left in ``folder`` for who started this."""
    from dinov2_core.train.preemption import Preempted

    note = Path(folder) / _ERROR
    if (error := _cause(Path(folder))) is not None:
        raise error  # the same again; nothing is gained by a restart
    try:
        return function(argument), None
    except Preempted as stopped:
        return None, stopped
    except UserError as error:
        temporary = note.with_suffix(f".{os.getpid()}")
        about = {"kind": type(error).__name__, "what": error.what, "where": error.where, "todo": error.todo}
        temporary.write_text(json.dumps(about))
        temporary.replace(note)
        raise


def _cause(folder: Path) -> UserError | None:
    note = folder / _ERROR
    if not note.exists():
        return None
    about = json.loads(note.read_text())
    kind = getattr(errors, about.pop("kind"), UserError)
    return kind(about.pop("what"), **about)  # type: ignore[no-any-return]


def died(restarts: int, reason: object) -> UserError:
    """The error of a training that lost processes more often than ``restarts``."""
    lines = str(reason).strip().splitlines() or ["no reason is known"]
    return UserError(
        f"the training lost a process {restarts + 1} times; the last: {lines[-1].strip()}",
        todo="look at its log; the same command goes on from the last checkpoint",
    )
