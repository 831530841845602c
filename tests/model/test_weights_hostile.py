"""Files that are damaged, of another kind or malicious: one clear line, and nothing in them runs."""

from __future__ import annotations

import argparse
import contextlib
import os
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dinov2_core.errors import UserError
from dinov2_core.model import tensor_files, weights
from dinov2_core.model.preprocessing import Preprocessing
from dinov2_core.model.vision_transformer import VitConfig
from tests.model import peers


class Malicious:
    """Unpickled, it makes a folder."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.target),)


def zipped(content: object, path: Path) -> None:
    torch.save(content, path)


def legacy(content: object, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def plain(content: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(content))


@pytest.mark.parametrize("save", [zipped, legacy, plain])
def test_a_malicious_pickle_is_refused_and_does_not_run(save: Callable[[object, Path], None], tmp_path: Path) -> None:
    path, target = tmp_path / "weights.pth", tmp_path / "pwned"
    save({"teacher": {"cls_token": torch.zeros(1), "x": Malicious(target)}}, path)
    for read in (weights.load, weights.load_training_state):
        with pytest.raises(UserError, match=r"more than tensors and was not opened \("):
            read(path)
    assert not target.exists()
    # The same file does run where pickles are trusted: the test would notice if it did here.
    if save is not plain:
        torch.load(path, weights_only=False)
        assert target.exists()


def test_a_malicious_file_inside_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "dinov2"}')
    zipped({"x": Malicious(tmp_path / "pwned")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="was not opened"):
        weights.load(tmp_path)
    assert not (tmp_path / "pwned").exists()


def test_settings_pickled_beside_the_weights_are_refused_by_name(tmp_path: Path) -> None:
    zipped({"teacher": {"cls_token": torch.zeros(1)}, "args": argparse.Namespace(lr=1)}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"argparse\.Namespace.*save only the state dict"):
        weights.load(tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([torch.zeros(1)], "the file holds a list, not tensors by name"),
        (torch.zeros(1), "the file holds a Tensor"),
        ({}, "the file holds no tensors"),
        ({"teacher": {}}, "the file holds no tensors"),
        ({"lr": 0.1, "cls_token": torch.zeros(1)}, "1 not tensors: lr"),
    ],
)
def test_what_holds_no_tensors_by_name_is_refused(content: object, said: str, tmp_path: Path) -> None:
    zipped(content, tmp_path / "w.pth")
    with pytest.raises(UserError, match=said):
        weights.load(tmp_path / "w.pth")


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """One good file of each kind."""
    folder = tmp_path_factory.mktemp("samples")
    ours = peers.backbone(VitConfig(dim=64, depth=1, heads=1, patch=4, image_size=8))
    zipped(ours.state_dict(), folder / "zip")
    legacy(ours.state_dict(), folder / "legacy")
    safetensors.torch.save_file(ours.state_dict(), folder / "bare")
    (folder / "ours").write_bytes(weights.to_bytes(ours, Preprocessing(8)))
    return [path.read_bytes() for path in sorted(folder.iterdir())]


@pytest.mark.parametrize("kept", [0, 1, 8, 9, 200, 0.5, 0.999])
def test_a_file_cut_short_is_refused(samples: list[bytes], kept: float, tmp_path: Path) -> None:
    path = tmp_path / "w"
    for data in samples:
        path.write_bytes(data[: int(kept * len(data)) if isinstance(kept, float) else kept])
        with pytest.raises(UserError):
            weights.load(path)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 3), st.data())
def test_flipped_bytes_load_or_are_refused(samples: list[bytes], which: int, data: st.DataObject) -> None:
    damaged = bytearray(samples[which])
    # Where names, shapes and the pickle are; a flip among the numbers is just another number.
    for place in data.draw(st.lists(st.integers(0, 1500), min_size=1, max_size=4)):
        damaged[place % len(damaged)] ^= data.draw(st.integers(1, 255))
    check(bytes(damaged))


@settings(deadline=None, max_examples=60)
@given(st.sampled_from([b"", b"PK\x03\x04", b"\x80\x02", b"\x80\x04", b"\x08\0\0\0\0\0\0\0{"]), st.binary(max_size=64))
@example(b"\xff\xff\xff\xff\xff\xff\xff\xff{", b"")
def test_any_bytes_are_refused(start: bytes, rest: bytes) -> None:
    check(start + rest)


def check(content: bytes) -> None:
    """What cannot be loaded is refused; any other exception fails the test."""
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(UserError):
        (Path(folder) / "w").write_bytes(content)
        weights.load(Path(folder) / "w")


def test_a_broken_configuration_in_the_header_is_refused(tmp_path: Path) -> None:
    for note in ("{", "[]", '{"model": {}}', '{"model": {"dim": 64, "depth": 1, "heads": 5}, "preprocessing": {}}'):
        safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "w", metadata={"dinov2": note})
        with pytest.raises(UserError):
            weights.load(tmp_path / "w")


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "w"
    path.write_text("before")

    def fail(made: Path) -> None:
        made.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="cannot write \\(No space left on device\\)"):
        tensor_files.write(path, fail)
    assert path.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["w"]
