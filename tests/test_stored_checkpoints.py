"""A training whose data root is a bucket outlives its machine: what its disk held comes back from the bucket."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dinov2_core.storage import Store
from dinov2_core.stored_checkpoints import StoredCheckpoints
from tests.stages.learner import TINY, make, upstream
from tests.weed import BUCKET, Weed, environment

pytestmark = [pytest.mark.s3, pytest.mark.slow]

STEPS, LAST = 10, 6
TRAINING = {"overrides": TINY | {"steps": STEPS}, "log_every": 1, "checkpoint_every": 2}
STAGE = "preliminary_encoder"
MACHINE = f"""
import sys, time
from dinov2_core.storage import Store
from tests.stages.learner import make

def tell(step, metrics):
    if step == {LAST}:
        time.sleep(600)

make(Store(sys.argv[1]), {STAGE!r}, {TRAINING!r}, tracker=tell)
"""


@contextmanager
def machine(root: str, disk: Path) -> Iterator[None]:
    """Somewhere with a disk of its own, where the stage is run; it gets to step ``LAST`` and no further."""
    disk.mkdir()
    process = subprocess.Popen([sys.executable, "-c", MACHINE, root], env={**os.environ, "TMPDIR": str(disk)})
    try:
        yield
    finally:
        process.kill()
        process.wait()


def test_a_training_goes_on_on_another_machine_and_ends_with_the_same_weights(
    weed: Weed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = Store(str(tmp_path / "undisturbed"))
    upstream(undisturbed)
    wanted = make(undisturbed, STAGE, TRAINING)
    root = f"s3://{BUCKET}/lost-machine"
    with environment(weed.env):
        store = Store(root)
        upstream(store)
        with machine(root, tmp_path / "first"):
            (folder,) = wait_for(lambda: store.folders(f"{STAGE}/all/.progress"))
            copies = StoredCheckpoints(store, f"{STAGE}/all/.progress/{folder}/checkpoints")
            wait_for(lambda: copies.names()[-1:] == [f"step-{LAST:08d}"])
        assert list((tmp_path / "first").rglob("step-*")), "they were on its disk as well"
        shutil.rmtree(tmp_path / "first")
        # The plug was pulled while the next was on its way: it has no note yet.
        store.write_bytes(f"{copies.prefix}/step-00000008/shard-00001-model-00001-of-00001.safetensors", b"half")
        (tmp_path / "second").mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "second"))
        steps: list[int] = []
        made = make(store, STAGE, TRAINING, tracker=lambda step, metrics: steps.append(step))
        assert steps == list(range(LAST, STEPS)), "from the copy, and not from the beginning"
        assert made.hash == wanted.hash, "the same files, by their checksums"
        assert [f.sha256 for f in made.files] == [f.sha256 for f in wanted.files]
        assert not [p for p in store.find(STAGE) if ".progress" in p], "a training that has ended keeps none"
        assert not list((tmp_path / "second").rglob("step-*"))


def wait_for(look: Callable[[], Any]) -> Any:
    """What ``look`` gives once it is something."""
    until = time.monotonic() + 240
    while not (found := look()):
        assert time.monotonic() < until, found
        time.sleep(0.1)
    return found
