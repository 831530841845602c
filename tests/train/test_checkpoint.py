"""Which checkpoints a training goes on from, which it refuses, and which it keeps."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest

from dinov2_core.errors import DamagedDataError, UserError
from dinov2_core.train import checkpoint
from dinov2_core.train.batches import PoolBatches
from dinov2_core.train.objective import Batch
from dinov2_core.train.trainer import train
from tests.train.test_trainer import pool, tiny


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path: Path) -> None:
    train(tiny(steps=2), PoolBatches(pool(), tiny(steps=2)), folder=tmp_path)
    with pytest.raises(UserError, match="of another recipe"):
        train(tiny(steps=3), PoolBatches(pool(), tiny()), folder=tmp_path)


def test_cut_and_half_written_checkpoints_are_passed_over(tmp_path: Path) -> None:
    recipe = tiny()
    train(recipe, PoolBatches(pool(), recipe), folder=tmp_path, checkpoint_every=2, keep=3)
    for name, damage in (
        ("step-00000008", lambda p: p.write_bytes(p.read_bytes()[:100])),
        ("step-00000006", Path.unlink),
    ):
        damage(next((tmp_path / name).glob("*.safetensors")))
    (tmp_path / ".tmp-step-00000009").mkdir()
    assert checkpoint.latest(tmp_path) == tmp_path / "step-00000004"


def test_a_damaged_checkpoint_of_the_right_size_says_so(tmp_path: Path) -> None:
    recipe = tiny(steps=2)
    train(recipe, PoolBatches(pool(), recipe), folder=tmp_path)
    (shard,) = (tmp_path / "step-00000002").glob("*.safetensors")
    shard.write_bytes(bytes(shard.stat().st_size))
    with pytest.raises(DamagedDataError, match="not a readable checkpoint"):
        train(recipe, PoolBatches(pool(), recipe), folder=tmp_path)


def test_a_checkpoint_holds_data_only_and_runs_no_pickle(tmp_path: Path) -> None:
    recipe = tiny(steps=2)
    train(recipe, PoolBatches(pool(), recipe), folder=tmp_path)
    folder = tmp_path / "step-00000002"
    assert {p.suffix for p in folder.iterdir()} == {".safetensors", ".json"}

    class Hostile:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    # What torch's distributed checkpoints usually hold, and unpickle.
    for name in (".metadata", "__0_0.distcp"):
        (folder / name).write_bytes(pickle.dumps(Hostile()))
    assert train(recipe, PoolBatches(pool(), recipe), folder=tmp_path).history
    assert not (tmp_path / "ran").exists()


def test_a_training_that_fails_lets_its_checkpoint_be_written(tmp_path: Path) -> None:
    recipe = tiny()
    batches = PoolBatches(pool(), recipe)

    def failing(step: int) -> Batch:
        if step == 4:
            raise RuntimeError("no such batch")
        return batches(step)

    with pytest.raises(RuntimeError, match="no such batch"):
        train(recipe, failing, folder=tmp_path, checkpoint_every=2)
    assert checkpoint.latest(tmp_path) == tmp_path / "step-00000004"
    assert not list(tmp_path.glob(".tmp-*"))


def test_the_newest_and_the_multiples_stay(tmp_path: Path) -> None:
    recipe = tiny()
    train(recipe, PoolBatches(pool(), recipe), folder=tmp_path, checkpoint_every=1, keep=2, keep_every=3)
    assert sorted(p.name[-1] for p in tmp_path.glob("step-*")) == ["3", "6", "7", "8"]


def test_a_checkpoint_of_other_data_is_refused(tmp_path: Path) -> None:
    recipe = tiny(steps=2)
    train(recipe, PoolBatches(pool(), recipe), folder=tmp_path, data="one")
    with pytest.raises(UserError, match="of other data"):
        train(recipe, PoolBatches(pool(), recipe), folder=tmp_path, data="two")
