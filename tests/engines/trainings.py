"""Tiny trainings for the tests of launchers; launchers call these in processes of their own."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

from dinov2_core.errors import UserError
from dinov2_core.pretraining import Request, pretrain
from dinov2_core.train.loader import LoaderConfig
from dinov2_core.train.preemption import Preempted

STEPS = 12


def request(data: Path, out: Path) -> Request:
    """A few steps of a network of no use, with a checkpoint every second one."""
    changes = {
        "model.dim": 32,
        "model.depth": 1,
        "model.heads": 1,
        "dino_head.prototypes": 16,
        "dino_head.hidden": 16,
        "dino_head.bottleneck": 8,
        "batch": 4,
        "steps": STEPS,
        "precision": "float32",
    }
    return Request(
        "demo", str(data), out, changes=changes, loader=LoaderConfig(workers=0), log_every=1, checkpoint_every=2
    )


def train(asked: Request) -> dict[str, Any]:
    import torch

    torch.set_num_threads(1)
    return {**(pretrain(asked) or {}), "process": (os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1"))}


def lose_one(asked: Request) -> dict[str, Any]:
    """The second process is killed, once, after the first checkpoint."""
    lost = asked.out.parent / "lost"

    def end() -> None:
        while not list((asked.out / "state").glob("*[0-9]*")):
            time.sleep(0.005)
        lost.touch()
        os.kill(os.getpid(), signal.SIGKILL)

    if os.environ["RANK"] == "1" and not lost.exists():
        threading.Thread(target=end, daemon=True).start()
    # Each time it starts, it says so.
    (asked.out.parent / f"start-{os.environ['RANK']}-{time.time_ns()}").touch()
    return train(asked)


def mistaken(asked: Request) -> None:
    raise UserError("fewer images than one batch", where="dinov2 pretrain", todo="give more images")


def asked_to_end(asked: Request) -> None:
    raise Preempted(6)
