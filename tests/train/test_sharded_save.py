"""Writing beside the training: what was copied is what is written, and nobody waits for a process that failed."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dinov2_core.train import checkpoint, sharded_save


@pytest.fixture
def executor() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1)


def test_what_changes_after_the_start_is_not_written(executor: ThreadPoolExecutor, tmp_path: Path) -> None:
    gate = threading.Event()
    executor.submit(gate.wait)  # nothing is written before the change below
    tensors = {"a": torch.arange(4.0), "step": torch.tensor(3.0), "empty": torch.zeros(0, 2)}
    named: list[str] = []
    done = sharded_save.start(executor, tensors, tmp_path, lambda: named.append("whole"))
    tensors["a"].zero_()
    tensors["step"].zero_()
    assert not named
    gate.set()
    done.result(timeout=60)
    assert named == ["whole"]
    (shard,) = tmp_path.iterdir()
    written = load_file(shard)
    assert written["a"].tolist() == [0, 1, 2, 3]
    assert float(written["step"]) == 3


def test_a_part_that_cannot_be_written_is_an_error_and_no_checkpoint(tmp_path: Path) -> None:
    folders = checkpoint.Folder(tmp_path)
    with folders:
        folders.save({"a": torch.ones(2)}, 1, {})
        folders.finish()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sharded_save.HuggingFaceStorageWriter, "write_data", _full)
            folders.save({"a": torch.ones(2)}, 2, {})
            with pytest.raises(OSError, match="no space"):
                folders.finish()
    assert checkpoint.latest(tmp_path) == tmp_path / "step-00000001"


def _full(*_: object) -> None:
    raise OSError("no space left")


def test_the_first_process_does_not_wait_for_one_that_failed(tmp_path: Path) -> None:
    sharded_save._put(tmp_path / "written-00001.json", "no space left")
    with pytest.raises(OSError, match="another process could not write its part of the checkpoint: no space left"):
        sharded_save._await(tmp_path / "written-00001.json")


def test_the_first_process_does_not_wait_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharded_save, "PATIENCE_S", 0.05)
    with pytest.raises(TimeoutError, match="has not written its part"):
        sharded_save._await(tmp_path / "written-00001.json")
