"""Pickles are refused everywhere: no code of ours opens one freely, no reader runs one, no run writes one."""

from __future__ import annotations

import ast
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dinov2_core import adopted_encoder, manifest
from dinov2_core.errors import UserError
from dinov2_core.storage import Store
from tests import toy_pipeline
from tests.pipelines.tiny import ROOT
from tests.pipelines.toy import Toy

SOURCES = sorted(p for name in ("dinov2_core", "assets", "pipelines") for p in (ROOT / name).rglob("*.py"))
OPENERS = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}


def opened(path: Path) -> list[str]:
    """Calls in a file that would open a pickle without restriction."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        owner = node.func.value.id if isinstance(node.func.value, ast.Name) else ""
        given = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
        if owner in OPENERS and node.func.attr in ("load", "loads", "open", "Unpickler"):
            found.append(f"{owner}.{node.func.attr}")
        if owner == "torch" and node.func.attr == "load" and given.get("weights_only") is not True:
            found.append("torch.load without weights_only=True")
        if given.get("allow_pickle"):
            found.append(f"{owner}.{node.func.attr} with allow_pickle")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_code_opens_a_pickle_freely(path: Path) -> None:
    assert opened(path) == []


def test_the_look_for_pickles_sees_them(tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text(
        "import torch, pickle\ntorch.load(p)\npickle.loads(b)\nnp.load(p, allow_pickle=True)\n"
    )
    assert len(opened(tmp_path / "x.py")) == 3


class Touch:
    """An object whose unpickling leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        return (os.mkdir, (self.path,))


def weights(data: bytes, folder: Path) -> None:
    from dinov2_core.model import weights

    (folder / "w.safetensors").write_bytes(data)
    weights.load(folder / "w.safetensors")


def torch_weights(data: bytes, folder: Path) -> None:
    from dinov2_core.model import weights

    (folder / "w.pth").write_bytes(data)
    weights.load(folder / "w.pth")


def adopt(data: bytes, folder: Path) -> None:
    adopted_encoder.adopt(Store(str(folder)), data, "1")


def read_manifest(data: bytes, folder: Path) -> None:
    Store(str(folder)).write_bytes(manifest.path_of("curated_lvd"), data)
    manifest.read(Store(str(folder)), "curated_lvd")


def read_table(data: bytes, folder: Path) -> None:
    Store(str(folder)).write_bytes("t.parquet", data)
    Store(str(folder)).read_table("t.parquet")


@pytest.mark.parametrize("reader", [weights, torch_weights, adopt, read_manifest, read_table], ids=lambda f: f.__name__)
def test_a_pickle_in_place_of_data_is_refused_and_not_run(
    reader: Callable[[bytes, Path], None], tmp_path: Path
) -> None:
    ran = tmp_path / "ran"
    data = pickle.dumps(Touch(ran))
    with pytest.raises(UserError):
        reader(data, tmp_path)
    assert not ran.exists()
    pickle.loads(data)
    assert ran.exists(), "the planted object would have run"


def test_a_run_writes_no_pickle(toy: Toy) -> None:
    toy_pipeline.put(toy.folder, "b1", "1\n")
    assert toy.run().success
    files = [p for p in toy.folder.rglob("*") if p.is_file()]
    assert files
    # Every protocol since 2 begins like this; older ones end alike.
    heads = {str(p.relative_to(toy.folder)): p.read_bytes()[:2] for p in files}
    assert [name for name, head in heads.items() if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05"] == []
