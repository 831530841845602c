"""What the documents say exists: targets, jobs, verbs, modules, pictures, links and settings."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dinov2_core.stages import registry
from pipelines.jobs import JOBS

ROOT = Path(__file__).resolve().parents[1]
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = "\n".join(p.read_text() for p in DOCS)


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"make ([a-z]+)(?=[`\s]*(?:#|`|\n|,))", TEXT)) <= targets
    said = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in ("setup", "demo", "ui", "test", "lint", "typecheck", "bench", "clean"):
        assert f"make {name}" in said


def test_every_job_that_is_named_exists() -> None:
    assert set(re.findall(r"-j (\w+)", TEXT)) <= {job.name for job in JOBS}


def test_every_verb_and_stage_that_is_named_exists() -> None:
    verbs = set(re.findall(r"^dinov2 (\w+)", TEXT, re.M)) | set(re.findall(r"`dinov2 (\w+)", TEXT))
    ended = subprocess.run(
        [sys.executable, "-m", "dinov2_core.cli", "--help"], capture_output=True, text=True, check=True
    )
    for verb in verbs:
        assert re.search(rf"^    {verb} ", ended.stdout, re.M), verb
    assert set(re.findall(r"dinov2 run (\w+)", TEXT)) - {"STAGE"} <= set(registry.STAGES)
    assert set(re.findall(r"pipelines\.materialize (\w+)", TEXT)) - {"ASSET"} <= set(registry.STAGES)


def test_every_module_that_is_run_exists() -> None:
    for name in set(re.findall(r"python -m ([\w.]+)", TEXT)):
        assert importlib.util.find_spec(name), name


@pytest.mark.parametrize("path", DOCS, ids=lambda p: p.name)
def test_links_and_pictures_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        if "://" not in target:
            assert (path.parent / target).exists(), target


def test_the_tutorials_settings_are_valid() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "tutorial.md").read_text(), re.S)
    settings = [yaml.safe_load(block) for block in blocks]
    assert settings
    for name, values in settings[0].items():
        registry.get(name).load_params(values)
