"""Copies of checkpoints: what a slow, dead or lost place costs a training, and what a new machine goes on from."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

from dinov2_core.storage import Store
from dinov2_core.stored_checkpoints import StoredCheckpoints
from dinov2_core.train import checkpoint
from dinov2_core.train.batches import PoolBatches
from dinov2_core.train.checkpoint_copies import Copies
from dinov2_core.train.trainer import Trained, train
from tests.train.test_trainer import pool, tiny

STEPS = 8


class Place:
    """Copies in memory of the test: names only. ``open`` is clear while nothing gets through."""

    def __init__(self) -> None:
        self.has: list[str] = []
        self.tried: list[str] = []
        self.open = threading.Event()
        self.open.set()
        self.fails: OSError | None = None

    def names(self) -> list[str]:
        return list(self.has)

    def put(self, path: Path) -> None:
        self.tried.append(path.name)
        self.open.wait(20)
        if self.fails is not None:
            raise self.fails
        assert checkpoint.is_whole(path), "what is on its way must stay on the disk"
        self.has.append(path.name)

    def get(self, name: str, to: Path) -> None:
        raise AssertionError("nothing is newer there")

    def drop_all_but(self, names: Iterable[str]) -> None:
        self.has = [name for name in self.has if name in set(names)]


def trained(folder: Path, copies: Copies | None = None, *, steps: int = STEPS, keep_every: int = 0) -> Trained:
    recipe = tiny(steps=steps)
    batches = PoolBatches(pool(), recipe)
    return train(recipe, batches, folder=folder, copies=copies, checkpoint_every=1, keep=2, keep_every=keep_every)


def step(number: int) -> str:
    return f"step-{number:08d}"


def test_a_place_that_fails_is_warned_of_and_costs_the_copies_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = Place()
    place.fails = OSError("the bucket is gone")
    with caplog.at_level(logging.WARNING):
        result = trained(tmp_path / "a", place)
    assert "was not copied, the training goes on: the bucket is gone" in caplog.text
    assert place.tried[-1] == step(STEPS), "the last is tried whatever failed before"
    alone = trained(tmp_path / "b")
    assert result.history == alone.history
    assert [p.name for p in sorted((tmp_path / "a").glob("step-*"))] == [step(7), step(8)]


def test_a_slow_place_holds_nothing_up_and_is_given_the_newest_next(tmp_path: Path) -> None:
    place = Place()
    place.open.clear()
    folders = checkpoint.Folder(tmp_path, keep=1, copies=place)
    small = {"weight": torch.zeros(2)}
    with folders:
        for number in range(1, 6):
            folders.save(small, number, {})
            folders.finish()
            if number == 1:
                while not place.tried:
                    time.sleep(0.01)
        assert place.tried == [step(1)], "one at a time"
        assert {p.name for p in tmp_path.glob("step-*")} == {step(1), step(5)}, "what is on its way and what is kept"
        place.open.set()
    assert place.tried == [step(1), step(5)]
    assert place.has == [step(5)]
    assert {p.name for p in tmp_path.glob("step-*")} == {step(5)}


def test_only_what_is_kept_here_is_kept_there(tmp_path: Path) -> None:
    copies = StoredCheckpoints(Store(str(tmp_path / "there")), "a/b")
    folders = checkpoint.Folder(tmp_path / "here", keep=2, keep_every=3, copies=copies)
    small = {"weight": torch.zeros(2)}
    for number in range(1, 9):
        with folders:
            folders.save(small, number, {})
            folders.finish()
        folders = checkpoint.Folder(tmp_path / "here", keep=2, keep_every=3, copies=copies)
    assert copies.names() == [step(n) for n in (3, 6, 7, 8)]
    assert copies.names() == [p.name for p in sorted((tmp_path / "here").glob("step-*"))]


@pytest.mark.parametrize("loses", ["all", "the newest", "none"])
def test_a_machine_goes_on_from_the_newest_whole_one_of_both_places(loses: str, tmp_path: Path) -> None:
    here, there = tmp_path / "here", StoredCheckpoints(Store(str(tmp_path / "there")), "a")
    done = trained(here, there)
    if loses != "none":
        # As if the copy of step 7 were the newest that got through.
        there.drop_all_but([step(7)])
        shutil.rmtree(here / step(8))
    if loses == "all":
        shutil.rmtree(here)
    again = checkpoint.Folder(here, copies=there).latest()
    assert again is not None
    assert again.name == (step(8) if loses == "none" else step(7))
    assert checkpoint.is_whole(again)
    assert trained(here, there).history == done.history


def test_half_a_copy_is_none(tmp_path: Path) -> None:
    there = StoredCheckpoints(Store(str(tmp_path / "there")), "a")
    trained(tmp_path / "here", there)
    assert there.names() == [step(7), step(8)]
    (shard,) = (tmp_path / "there/a" / step(8)).glob("*.safetensors")
    whole = shard.read_bytes()
    for damage in (lambda: shard.write_bytes(whole[:-1]), shard.unlink):
        damage()
        assert there.names() == [step(7)]
    shard.write_bytes(whole)
    note = tmp_path / "there/a" / step(8) / checkpoint.NOTE
    said = note.read_bytes()
    for text in (b"", b"[]", said[:20]):
        note.write_bytes(text)
        assert there.names() == [step(7)]
    note.unlink()
    assert there.names() == [step(7)]
    there.drop_all_but(there.names())
    assert not list((tmp_path / "there/a" / step(8)).glob("*")), "half ones go with the next that is whole"


def test_a_copy_that_breaks_off_counts_no_more_even_where_an_older_one_was_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = StoredCheckpoints(Store(str(tmp_path / "there")), "a")
    trained(tmp_path / "here", there, steps=2)
    assert there.names() == [step(1), step(2)]

    def broken(*_: object) -> None:
        raise OSError("pulled the plug")

    monkeypatch.setattr("dinov2_core.stored_checkpoints.shutil.copyfileobj", broken)
    with pytest.raises(OSError, match="pulled the plug"):
        there.put(tmp_path / "here" / step(2))
    assert there.names() == [step(1)]
