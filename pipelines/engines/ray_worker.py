"""What runs on the cluster: one process that keeps its models and runs one shard function after another.

Who gives it shards is in ``ray_shard_map``. Only references come here and only summaries go back.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Mapping
from dataclasses import dataclass

from dinov2_core.errors import UserError
from dinov2_core.shard_map import ShardFunction, Summary, Task

PASSED = ("AWS_", "DATA_ROOT", "DINOV2_", "HF_HUB_", "MLFLOW_")
"""Settings that a worker takes from the program, by how their names begin: not PATH or HOME, which are its machine's.
"""


@dataclass(frozen=True)
class Outcome:
    """What became of one shard: its summary, or what went wrong."""

    summary: Summary | None = None
    error: UserError | None = None
    failure: str = ""
    """one line: an exception that is not the user's"""
    trace: str = ""


class RayWorker:
    """An actor. Models stay loaded, since shard functions keep them by process (``functools.lru_cache``)."""

    def __init__(self, environment: Mapping[str, str], folder: str) -> None:
        os.environ.update(environment)
        # Relative paths mean what they mean to the program, wherever the same folder is there.
        if os.path.isdir(folder):
            os.chdir(folder)

    def ready(self) -> str:
        """Answers once the process runs: the machine's name."""
        return os.uname().nodename

    def run(self, function: ShardFunction, task: Task) -> Outcome:
        """Run one shard. Exceptions come back as data, so that they need no class of ours to be read."""
        try:
            _check_root(str(task.get("root", "")))
            return Outcome(function(task))
        except UserError as error:
            return Outcome(error=error, trace=traceback.format_exc())
        except Exception as error:  # noqa: BLE001 - whatever a shard raises is its reason
            line = "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]
            return Outcome(failure=line, trace=traceback.format_exc())


def environment() -> dict[str, str]:
    """The settings that workers are started with."""
    return {name: value for name, value in os.environ.items() if name.startswith(PASSED)}


def _check_root(root: str) -> None:
    if root and "://" not in root and not os.path.isdir(root):
        raise UserError(
            f"the data root is not on the machine '{os.uname().nodename}'",
            where=root,
            todo="use an object store (s3://…) or a folder that every machine of the cluster mounts",
        )
