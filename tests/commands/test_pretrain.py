"""``dinov2 pretrain`` on what people have: a nested folder with broken files, shards, Parquet; resumed, continued."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from dinov2_core.cli import main
from dinov2_core.images.shards import ShardWriter
from dinov2_core.model import weights
from dinov2_core.storage import Store
from dinov2_core.train import checkpoint, initial

TINY = [
    "model.dim=32",
    "model.depth=1",
    "model.heads=1",
    "dino_head.prototypes=16",
    "dino_head.hidden=16",
    "dino_head.bottleneck=8",
    "batch=4",
    "steps=4",
]


def picture(seed: int, size: tuple[int, int], kind: str = "PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def folder(path: Path, size: tuple[int, int] = (80, 60)) -> Path:
    """Nested, of several formats, two files broken."""
    for i in range(10):
        kind = ("PNG", "JPEG", "WEBP")[i % 3]
        place = path / f"class {i % 2}" / "deep" / f"{i}.{kind.lower()}"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(picture(i, size, kind))
    (path / "broken.jpg").write_bytes(b"")
    (path / "page.png").write_bytes(b"<!doctype html><html></html>")
    return path


def run(data: Path | str, out: Path, *more: str) -> int:
    options = ["--recipe", "demo", "--data", str(data), "--out", str(out), "--workers", "0", "--log-every", "1"]
    return main(["pretrain", *options, *(more or TINY)])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    base = tmp_path_factory.mktemp("pretrain")
    data = folder(base / "photos")
    assert run(data, base / "out", *TINY, "--checkpoint-every", "2") == 0
    return data, base / "out"


def test_a_folder_of_photos_becomes_weights(finished: tuple[Path, Path]) -> None:
    _, out = finished
    backbone, preprocessing = weights.load(out / "teacher.safetensors")
    assert (backbone.config.dim, preprocessing.size) == (32, 32)
    assert json.loads((out / "recipe.json").read_text())["steps"] == 4
    assert (out / "state").is_dir()
    steps = {line.split(",")[0] for line in (out / "history.csv").read_text().splitlines()[1:]}
    assert steps == {"0", "1", "2", "3"}
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["steps"], summary["batch"]) == (4, 4)


def test_broken_files_are_named_with_a_reason(finished: tuple[Path, Path]) -> None:
    rows = pq.read_table(finished[1] / "refused.parquet").to_pylist()
    assert rows == [{"name": "broken.jpg", "reason": "empty"}, {"name": "page.png", "reason": "html"}]


def test_small_pictures_are_held_in_memory_and_large_ones_read(
    finished: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder(tmp_path / "icons", (30, 32)), tmp_path / "out", *TINY) == 0
    assert "10 images, held in memory as squares of 32 pixels" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["refused"] == 2
    assert run(finished[0], tmp_path / "two", *TINY, "steps=1") == 0
    said = capsys.readouterr().out
    assert "12 images, read as they are needed" in said
    assert re.search(r"step 1/1.*loss \d", said)


def test_the_same_command_goes_on_and_ends_with_the_same_weights(finished: tuple[Path, Path], tmp_path: Path) -> None:
    data, _ = finished
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert run(data, tmp_path / "one", *TINY) == 0
        assert run(data, tmp_path / "two", *TINY, "--checkpoint-every", "2") == 0
        # As after a kill between the two checkpoints.
        newest = checkpoint.latest(tmp_path / "two" / "state")
        assert newest is not None
        shutil.rmtree(newest)
        (tmp_path / "two" / "network.safetensors").unlink()
        assert run(data, tmp_path / "two", *TINY) == 0
    finally:
        torch.set_num_threads(threads)
    one, two = ((tmp_path / name / "network.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two


def test_another_recipe_does_not_overwrite_a_run(
    finished: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(finished[0], finished[1], *TINY, "seed=1") == 1
    assert "run of another recipe" in capsys.readouterr().err


def test_shards_and_parquet_are_taken_as_they_are(tmp_path: Path) -> None:
    images = [picture(i, (80, 60)) for i in range(6)]
    store = Store(str(tmp_path / "shards"))
    with ShardWriter(store, "set", max_images=4) as writer:
        for data in images:
            writer.add(data, "png")
    assert run(tmp_path / "shards" / "set", tmp_path / "a", *TINY, "steps=1") == 0
    (tmp_path / "parquet").mkdir()
    pq.write_table(pa.table({"image": images}), tmp_path / "parquet" / "x.parquet")
    assert run(tmp_path / "parquet", tmp_path / "b", *TINY, "steps=1") == 0
    for name in ("a", "b"):
        assert json.loads((tmp_path / name / "summary.json").read_text())["images"] == 6


def test_a_run_goes_on_at_a_larger_size_and_teaches_a_student(finished: tuple[Path, Path], tmp_path: Path) -> None:
    data, out = finished
    stage = ["--init", str(out), "--high-resolution", "48", "batch=4", "steps=2"]
    assert run(data, tmp_path / "large", *stage) == 0
    assert weights.load(tmp_path / "large" / "teacher.safetensors")[0].config.image_size == 48
    small = ["model.dim=16", "model.heads=1", "model.depth=1", "batch=4", "steps=2", "optim.warmup=1"]
    assert run(data, tmp_path / "small", "--teacher", str(out), *small) == 0
    recipe = json.loads((tmp_path / "small" / "recipe.json").read_text())
    assert (recipe["model"]["dim"], recipe["dino_head"]["prototypes"], recipe["drop_path"]) == (16, 16, 0.0)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["optim.base_rl=1"], "did you mean 'optim.base_lr'"),
        (["efficiency.acumulate=2"], "did you mean 'accumulate'"),
        (["efficiency.accumulate=0"], "accumulate must be at least 1"),
        (["steps"], "is not key=value"),
        (["--high-resolution", "48"], "name it with --init"),
        (["batch=99"], "fewer than one batch of 99"),
        (["--init", "/nowhere.pth"], "nowhere"),
    ],
)
def test_mistakes_are_one_line(
    finished: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    message: str,
) -> None:
    assert run(finished[0], tmp_path / "out", *more) == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert message in said[-1]


def test_the_commands_in_the_documents_are_read() -> None:
    from dinov2_core.cli import _parser
    from dinov2_core.train import recipes

    text = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    commands = re.findall(r"^dinov2 (pretrain .*?[^\\])$", text, re.M | re.S)
    assert len(commands) >= 4
    for command in commands:
        options = _parser().parse_args(shlex.split(command.replace("\\\n", " ")))
        assert options.recipe in recipes.RECIPES


def test_a_batch_in_parts_is_a_way_to_compute_the_same_run(finished: tuple[Path, Path], tmp_path: Path) -> None:
    efficient = ["efficiency.accumulate=2", "efficiency.checkpoint_activations=true"]
    assert run(finished[0], tmp_path / "parts", *TINY, *efficient) == 0
    whole, parts = (initial.read(path) for path in (finished[1], tmp_path / "parts"))
    assert json.loads((tmp_path / "parts" / "recipe.json").read_text()) == json.loads(
        (finished[1] / "recipe.json").read_text()
    )
    assert whole.tensors.keys() == parts.tensors.keys()
    assert all(torch.allclose(whole.tensors[k], parts.tensors[k], atol=2e-3) for k in whole.tensors)


def test_sigterm_saves_and_exits_with_75_and_the_same_command_goes_on(
    finished: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options = ["--recipe", "demo", "--data", str(finished[0]), "--out", str(out), "--workers", "0", "--log-every", "1"]
    command = [sys.executable, "-m", "dinov2_core.cli", "pretrain", *options, *TINY, "steps=150"]
    env = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step 3/"):
            process.send_signal(signal.SIGTERM)
            break
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 75, said
    stopped = re.search(r"stopped on request after step (\d+); the same command goes on", said)
    assert stopped, said
    assert checkpoint.latest(out / "state") == out / "state" / f"step-{int(stopped[1]):08d}"
    again = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert again.returncode == 0, again.stderr
    steps = re.findall(r"^step (\d+)/", again.stdout, re.M)
    assert (int(steps[0]), int(steps[-1])) == (int(stopped[1]) + 1, 150)
    assert (out / "network.safetensors").exists()


@pytest.mark.slow
def test_two_processes_see_what_one_sees(finished: tuple[Path, Path], tmp_path: Path) -> None:
    settings = [*TINY, "drop_path=0.0"]
    assert run(finished[0], tmp_path / "one", *settings) == 0
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    options = ["--recipe", "demo", "--data", str(finished[0]), "--out", str(tmp_path / "two"), "--workers", "0"]
    done = subprocess.run(
        [*command, "dinov2_core.cli", "pretrain", *options, "--log-every", "1", *settings],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stderr
    one, two = (initial.read(tmp_path / name).tensors for name in ("one", "two"))
    assert one.keys() == two.keys()
    assert all(torch.allclose(one[k], two[k], atol=2e-3) for k in one)
    assert json.loads((tmp_path / "two" / "summary.json").read_text())["refused"] == 2
