"""``dinov2 pretrain`` in many processes: ``python -m pipelines.pretrain --processes 8 --recipe R --data D --out DIR``.

On this machine's cores or GPUs by default; with ``--ray ADDRESS`` on the machines of a cluster, which must see the data
and the run's folder under the same names. All other options are those of ``dinov2 pretrain``; so are the recipe, the
checkpoints and the summary.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from dinov2_core.commands import pretrain
from dinov2_core.errors import UserError
from dinov2_core.launcher import InProcess, Launcher
from pipelines.launchers.launcher import Torchrun
from pipelines.launchers.ray_train import RayTrain


def train(request: Any) -> dict[str, Any] | None:
    """One process of the training: a launcher calls it in each."""
    from dinov2_core.pretraining import pretrain

    return pretrain(request)


def launcher_of(
    processes: str,
    ray: str = "",
    gpus: float = 0.0,
    cpus: float = 1.0,
    restarts: int = 3,
    *,
    where: str = "--processes",
) -> Launcher:
    """The launcher for ``N`` processes, or on a cluster for ``FEWEST:MOST``; ``where``: the setting's name.

    Raises:
        UserError: not a number of processes.
    """
    try:
        fewest, most = (int(part) for part in (processes.split(":") * 2)[:2])
    except ValueError:
        fewest = most = 0
    if not 1 <= fewest <= most or (fewest < most and not ray):
        todo = "give N; on a Ray cluster also FEWEST:MOST"
        raise UserError(f"'{processes}' is no number of processes", where=where, todo=todo)
    if ray:
        return RayTrain(fewest if fewest == most else (fewest, most), ray, cpus, gpus, restarts)
    return InProcess() if most == 1 else Torchrun(most, restarts)


def main(arguments: list[str] | None = None) -> int:
    """Train, print the summary; 75 where it was asked to end and can go on."""
    from dinov2_core.train.preemption import EXIT_CODE, Preempted

    parser = argparse.ArgumentParser(prog="python -m pipelines.pretrain", description=__doc__, allow_abbrev=False)
    parser.add_argument("--processes", default="1", metavar="N", help="or FEWEST:MOST on a cluster")
    parser.add_argument("--ray", default="", metavar="ADDRESS", help="of a cluster: auto or HOST:PORT")
    parser.add_argument("--gpus", type=float, default=0.0, help="of each process on a cluster")
    parser.add_argument("--cpus", type=float, default=1.0, help="of each process on a cluster")
    parser.add_argument("--restarts", type=int, default=3, help="how often a lost process is started again")
    own, rest = parser.parse_known_args(arguments)
    try:
        options = pretrain.parse(rest)
        request = pretrain.request_of(options, out=Path(options.out).absolute())
        summary = launcher_of(own.processes, own.ray, own.gpus, own.cpus, own.restarts).run(train, request)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    except Preempted as stopped:
        print(stopped, file=sys.stderr)
        return EXIT_CODE
    for name, value in (summary or {}).items():
        print(f"{name}: {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
