"""DVC's stages are the asset graph, and the settings file has a section for each."""

from __future__ import annotations

from pathlib import Path

import yaml

from dinov2_core.stages import registry

ROOT = Path(__file__).resolve().parents[2]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())


def test_every_stage_is_mirrored_with_its_upstream() -> None:
    assert list(STAGES) == list(registry.STAGES)
    for name, spec in registry.STAGES.items():
        stage = STAGES[name]
        upstream = {d.removeprefix("data/") for d in stage["deps"] if not d.startswith("data/world/")}
        assert upstream == set(spec.upstream), name
        assert stage["outs"][0] == {f"data/{name}": {"persist": True}}, "DVC must not delete what a stage has made"
        assert stage["metrics"] == [{f"metrics/{name}.json": {"cache": False, "persist": True}}]
        assert stage["params"] == [name]
        assert stage["cmd"] == f"python -m pipelines.materialize {name}"


def test_every_section_of_the_settings_file_is_valid() -> None:
    assert set(PARAMS) == set(registry.STAGES)
    for name, spec in registry.STAGES.items():
        spec.load_params(PARAMS[name])


def test_stages_without_upstream_depend_on_their_sources() -> None:
    roots = [name for name, spec in registry.STAGES.items() if not spec.upstream]
    for name in roots:
        assert STAGES[name]["deps"], f"{name} has no dependency: DVC would never run it again"
