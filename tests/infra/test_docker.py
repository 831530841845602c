"""Dockerfiles are linted, their locks agree with the project's, and their RUN lines work on a clean machine."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "infra" / "docker"
IMAGES = ("orchestrator", "worker")
HEAVY = ("torch", "torchvision", "faiss", "ray", "onnxruntime", "xformers", "triton")


def pins(path: Path) -> dict[str, str]:
    """Package → version of a lock's lines."""
    return dict(re.findall(r"(?m)^([\w.-]+)==([^\s;]+)", path.read_text()))


def instructions(image: str) -> list[tuple[str, str]]:
    """``(word, rest)`` of each instruction of a Dockerfile."""
    text = (FOLDER / f"{image}.Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in lines]


@pytest.mark.parametrize("image", IMAGES)
def test_a_dockerfile_passes_the_linter(image: str) -> None:
    # DL3059 wants one RUN: several are layers that a changed line does not make anew.
    command = [Path(sys.prefix) / "bin" / "hadolint", "--ignore", "DL3059", FOLDER / f"{image}.Dockerfile"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("image", IMAGES)
def test_a_lock_pins_what_the_projects_lock_pins(image: str) -> None:
    own, project = pins(FOLDER / f"{image}.lock"), pins(ROOT / "requirements.lock")
    shared = set(own) & set(project)
    assert len(shared) > 50
    # Packages of which the project's lock has a version for each Python are left out by their marker.
    twice = {n for n in shared if (ROOT / "requirements.lock").read_text().count(f"\n{n}==") > 1}
    assert {n: own[n] for n in shared - twice} == {n: project[n] for n in shared - twice}


def test_the_commands_of_the_runbook_make_the_locks_that_are_here(tmp_path: Path) -> None:
    """From uv's cache, which the project's own installation filled; from the registry where it was not."""
    runbook = (ROOT / "docs" / "cluster.md").read_text()
    commands = re.findall(r"(?m)^uv pip compile .*$", runbook)
    assert len(commands) == len(IMAGES)
    for name in ("requirements.lock", "pyproject.toml", "README.md", "LICENSE", "dinov2_core/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(FOLDER, tmp_path / "infra" / "docker")
    for command in commands:
        for more in (["--offline"], []):
            words = [*shlex.split(command), *more]
            done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                break
        assert done.returncode == 0, done.stderr[-2000:]
    for image in IMAGES:
        assert (tmp_path / "infra" / "docker" / f"{image}.lock").read_text() == (FOLDER / f"{image}.lock").read_text()


def test_the_orchestrators_lock_has_nothing_that_computes() -> None:
    own = pins(FOLDER / "orchestrator.lock")
    assert [n for n in own if n in HEAVY or n.startswith("nvidia-")] == []
    assert not {"faiss-cpu", "faiss-gpu"} & set(own)
    worker = pins(FOLDER / "worker.lock")
    assert "torch" in worker
    assert "ray" in worker
    assert not {"faiss-cpu", "faiss-gpu"} <= set(worker), "both bring a module called faiss"


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_does_not_run_as_root_and_copies_what_is_there(image: str) -> None:
    found = instructions(image)
    assert [rest for word, rest in found if word == "USER"] == ["10001:10001"]
    ignore = (FOLDER / f"{image}.Dockerfile.dockerignore").read_text().split()
    for word, rest in found:
        if word == "COPY" and not rest.startswith("--from"):
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert f"!{source.split('/')[0]}" in ignore, f"{source} is not sent to the builder"
        if word == "FROM":
            assert re.search(r":\d+\.\d+\.\d+-", rest), "a base image without a version changes under us"


def test_definitions_load_where_nothing_heavy_can_be_imported() -> None:
    code = (
        "import sys\n"
        f"for name in {HEAVY!r}: sys.modules[name] = None\n"
        "from pipelines.definitions import defs\n"
        "print(len(list(defs.resolve_asset_graph().get_all_asset_keys())))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[-1]) > 15


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("image", IMAGES)
def test_run_lines_work_in_order_on_a_clean_machine(image: str, tmp_path: Path) -> None:
    """COPY and RUN of the first stage, under a folder instead of the image's root; downloads come from uv's cache."""
    if shutil.disk_usage(tmp_path).free < 12 << 30:
        pytest.fail("12 GB of disk are needed")
    app, venv = tmp_path / "app", tmp_path / "venv"
    app.mkdir()
    env = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "PYTHONPATH", "DAGSTER_HOME")}
    # Neither bytecode nor copies are what is tested, and both cost a minute.
    env |= {"HOME": str(tmp_path), "UV_CACHE_DIR": _cache(), "UV_LINK_MODE": "hardlink"}
    for word, rest in instructions(image):
        if word == "FROM" and " AS " not in rest:
            break
        if word == "COPY":
            *sources, target = rest.split()
            for source in sources:
                place = app / source if target.endswith("/") and len(sources) > 1 else app / target
                place.parent.mkdir(parents=True, exist_ok=True)
                if (ROOT / source).is_dir():
                    shutil.copytree(ROOT / source, place, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(ROOT / source, app / source if target == "./" else place)
        if word == "RUN":
            command = (
                rest.replace("/opt/venv", str(venv)).replace(" --no-cache ", " ").replace("python -m venv", _python())
            )
            done = subprocess.run(["sh", "-ec", command], cwd=app, env=env, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{rest}\n{done.stderr[-3000:]}"
    assert (venv / "bin" / "dagster-webserver").exists()
    assert (venv / "bin" / "mlflow").exists()
    shutil.rmtree(venv)


def _cache() -> str:
    done = subprocess.run(["uv", "cache", "dir"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or str(Path.home() / ".cache" / "uv")


def _python() -> str:
    """The interpreter that stands in for the image's ``python``."""
    return f"{sys.base_prefix}/bin/python3 -m venv"
