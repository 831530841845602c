"""``dinov2 convert``: every format out of a hub file, and one line where something is wrong."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dinov2_core.cli import main
from dinov2_core.commands.convert import FORMATS
from dinov2_core.model import weights
from dinov2_core.model.vision_transformer import VitConfig
from tests.model import peers

DOCS = Path(__file__).resolve().parents[2] / "docs" / "models.md"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub file under the name that the document uses, in the working folder."""
    monkeypatch.chdir(tmp_path)
    torch.save(peers.backbone(VitConfig(64, 1, 1, image_size=56)).state_dict(), "dinov2_vits14_pretrain.pth")
    return tmp_path / "dinov2_vits14_pretrain.pth"


def test_every_command_of_the_document_runs(hub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands = re.findall(r"^dinov2 (convert .*)$", DOCS.read_text(), re.M)
    assert {shlex.split(c)[3] for c in commands} == set(FORMATS)
    for command in commands:
        assert main(shlex.split(command)) == 0, command
    said = capsys.readouterr().out
    assert "1 blocks of width 64, patch 14, 0 registers" in said
    assert "load it into timm.create_model('vit_small_patch14_dinov2', img_size=56" in said
    assert said.count("positions are interpolated otherwise there: features are equal at 56 × 56") == 2


def test_formats_that_can_be_read_give_the_same_weights(hub: Path) -> None:
    expected = weights.load(hub)[0].state_dict()
    for name in ("safetensors", "huggingface", "timm"):
        assert main(["convert", str(hub), "--to", name, "--out", f"deep/{name}"]) == 0
        found = weights.load(f"deep/{name}")[0].state_dict()
        for key in expected.keys() - {"mask_token"}:
            assert torch.equal(found[key], expected[key])


def test_a_missing_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", str(tmp_path / "none.pth"), "--to", "timm", "--out", str(tmp_path / "x")]) == 1
    assert re.fullmatch(r"error: .*none\.pth: cannot read the weights .*\n", capsys.readouterr().err)
    assert not (tmp_path / "x").exists()


def test_heads_can_be_given(tmp_path: Path) -> None:
    torch.save(peers.backbone(VitConfig(48, 1, 3, image_size=56)).state_dict(), tmp_path / "w.pth")
    arguments = ["convert", str(tmp_path / "w.pth"), "--to", "safetensors", "--out", str(tmp_path / "x")]
    assert main(arguments) == 1
    assert main([*arguments, "--heads", "3"]) == 0
    assert weights.load(tmp_path / "x")[0].config.heads == 3


def test_help_does_not_load_torch() -> None:
    code = "import sys\nfrom dinov2_core.cli import main\ntry: main(['--help'])\nfinally: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "convert" in done.stdout
    assert done.stdout.endswith("False\n")
