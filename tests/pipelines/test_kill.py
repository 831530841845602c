"""SIGKILL at three places; the same command goes on and ends with the manifests of an undisturbed run."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.pipelines.tiny import Tiny

pytestmark = pytest.mark.slow


def kill_when(tiny: Tiny, reached: Callable[[Path], bool]) -> None:
    """Start the demo and kill it, workers and all, once ``reached`` says so."""
    log = tiny.folder / "log.txt"
    with log.open("w") as out:
        process = subprocess.Popen(
            tiny.command(), cwd=tiny.folder, env=tiny.env, stdout=out, stderr=out, start_new_session=True
        )
    until = time.monotonic() + 150
    while not reached(tiny.data):
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < until, f"the place to kill at was never reached: {log.read_text()[-1000:]}"
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def in_the_crawl(data: Path) -> bool:
    return any(data.glob("raw_crawl/2026-01/.progress/*/*"))


def between_screen_and_dedup(data: Path) -> bool:
    return (data / "copy_embeddings/2026-01/manifest.json").exists()


def in_the_training(data: Path) -> bool:
    return any(data.glob("pretrained_checkpoint/all/.progress/*/*"))


def test_a_demo_killed_three_times_ends_like_one_left_alone(finished: Tiny, tmp_path: Path) -> None:
    tiny = Tiny(tmp_path / "killed").prepare()
    kept: dict[str, float] = {}
    for place in (in_the_crawl, between_screen_and_dedup, in_the_training):
        kill_when(tiny, place)
        done = {k: (tiny.data / k / "manifest.json").stat().st_mtime_ns for k in tiny.manifests()}
        assert {k: done[k] for k in kept} == kept, "a finished partition was made again"
        kept = done
    ended = tiny.run(tiny.command())
    assert ended.returncode == 0, ended.stderr[-4000:]
    done = {k: (tiny.data / k / "manifest.json").stat().st_mtime_ns for k in tiny.manifests()}
    assert {k: done[k] for k in kept} == kept
    assert tiny.manifests() == finished.manifests()
    assert not list(tiny.data.glob("*/*/.progress"))
