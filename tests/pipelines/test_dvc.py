"""DVC's stages are the asset graph, and the settings file has a section for each."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from dinov2_core import adopted_encoder
from dinov2_core.stages import registry
from pipelines import cost, versions

ROOT = Path(__file__).resolve().parents[2]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
ADOPTED = STAGES.pop(versions.ENCODER)
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())


def test_every_stage_is_mirrored_with_its_upstream() -> None:
    assert list(STAGES) == list(registry.STAGES)
    for name, spec in registry.STAGES.items():
        stage = STAGES[name]
        upstream = {d.removeprefix("data/") for d in stage["deps"] if not d.startswith("data/world/")}
        assert upstream - {"encoders"} == set(spec.upstream), name
        assert ("encoders" in upstream) == (name in cost.ENCODER_STAGES), "who embeds follows what was adopted"
        assert stage["outs"][0] == {f"data/{name}": {"persist": True}}, "DVC must not delete what a stage has made"
        assert stage["metrics"] == [{f"metrics/{name}.json": {"cache": False, "persist": True}}]
        assert stage["params"] == [name]
        assert stage["cmd"] == f"python -m pipelines.materialize {name}"


def test_the_adopted_encoder_is_the_one_stage_that_is_no_asset() -> None:
    assert {
        "cmd": f"python -m pipelines.versions {versions.ENCODER}",
        "outs": [{f"data/{adopted_encoder.FOLDER}": {"persist": True}}],
    } == ADOPTED


def test_every_section_of_the_settings_file_is_valid() -> None:
    assert set(PARAMS) == set(registry.STAGES)
    for name, spec in registry.STAGES.items():
        spec.load_params(PARAMS[name])


def test_stages_without_upstream_depend_on_their_sources() -> None:
    roots = [name for name, spec in registry.STAGES.items() if not spec.upstream]
    for name in roots:
        assert STAGES[name]["deps"], f"{name} has no dependency: DVC would never run it again"


def test_the_curves_and_scores_of_two_versions_are_drawn_together(tmp_path: Path) -> None:
    def write(loss: float, score: float) -> None:
        (tmp_path / "plots" / "history.csv").write_text(
            f"step,total,dino_global,ibot,koleo\n0,9,4,4,1\n10,{loss},3,3,1\n"
        )
        (tmp_path / "plots" / "scores.csv").write_text(
            f"dataset,protocol,model,metric,value\ncifar10,knn,trained,accuracy,{score}\n"
        )

    def run(*command: str) -> str:
        who = {f"GIT_{role}_{what}": "t@example.org" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        env = {**os.environ, **who, "DVC_NO_ANALYTICS": "1"}
        return subprocess.run(command, cwd=tmp_path, env=env, check=True, capture_output=True, text=True).stdout

    for name in ("dvc.yaml", "params.yaml", ".dvcignore", ".gitignore", ".dvc/config"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "plots").mkdir()
    write(7.5, 0.4)
    run("git", "init", "-q")
    run("git", "add", "-A")
    run("git", "commit", "-q", "-m", "v1")
    write(6.25, 0.5)
    drawn = run(sys.executable, "-m", "dvc", "plots", "diff", "HEAD", "--json")
    assert json.loads(drawn)["data"].keys() >= {"losses", "scores"}
    for value in ("7.5", "6.25", "0.4", "0.5"):
        assert value in drawn
