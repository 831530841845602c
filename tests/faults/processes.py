"""Toy stages made by other processes, to be killed, run beside each other, or left without room."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 120

MAKE = """
import sys
from dinov2_core import stage
from dinov2_core.errors import UserError
from dinov2_core.storage import Store
from tests.toy_pipeline import STAGES
root, *names = sys.argv[1:]
try:
    for name in names:
        stage_name, _, partition = name.partition("/")
        made = stage.materialise(Store(root), STAGES[stage_name], partition or "all")
        print(name, "made" if made.fresh else "up to date")
except UserError as error:
    sys.exit(f"error: {error}")
"""


def make(root: Path, *names: str) -> subprocess.Popen[str]:
    """Start a process that materialises ``STAGE/PARTITION`` or ``STAGE`` one after the other below ``root``."""
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", MAKE, str(root), *names],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait for a process: exit code, output and errors."""
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


def wait_for(reached: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    """Wait until ``reached()`` is true; fails naming ``what``."""
    until = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < until, f"not reached after {seconds:.0f} s: {what}"
        time.sleep(0.05)
