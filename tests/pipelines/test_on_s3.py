"""The whole pipeline with its data root in a bucket: from pages to a registered model, nothing on the local disk."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from dinov2_core import manifest
from dinov2_core.stages import registry
from dinov2_core.storage import Store
from pipelines.demo import web, world
from tests.pipelines.tiny import Tiny
from tests.weed import BUCKET, Weed, environment

pytestmark = [pytest.mark.s3, pytest.mark.slow]
BATCH = world.BATCHES[0]


def test_every_stage_runs_on_a_bucket_and_the_second_run_computes_nothing(weed: Weed, tmp_path: Path) -> None:
    tiny = Tiny(tmp_path / "s3").prepare()
    settings = yaml.safe_load((tiny.folder / "params.yaml").read_text())
    # As small as it can be: what is tested is where the data lies.
    for name in ("preliminary_encoder", "pretrained_checkpoint", "distilled_checkpoints"):
        settings[name]["overrides"] = {**settings[name].get("overrides", {}), "steps": 2, "batch": 8}
    (tiny.folder / "params.yaml").write_text(yaml.safe_dump(settings))
    port = int(settings["raw_crawl"]["hosts"]["*"].rsplit(":", 1)[1])
    place = world.build(tmp_path / "world", world.TINY)
    root = f"s3://{BUCKET}/whole"
    with environment(weed.env):
        store = Store(root)
        for path in sorted(p for p in place.rglob("*") if p.is_file()):
            inside = path.relative_to(place).as_posix()
            if not inside.startswith("sources/") or inside.startswith(f"sources/{BATCH}/"):
                store.write_bytes(f"world/{inside}", path.read_bytes())
        env = {**tiny.env, **weed.env, "DATA_ROOT": root, "DINOV2_WORKERS": "-1"}
        command = [sys.executable, "-m", "pipelines.materialize", *registry.STAGES]
        how: dict[str, Any] = {"cwd": tiny.folder, "env": env, "capture_output": True, "text": True, "check": False}
        with web.serve(place / "site.parquet", port):
            ended = subprocess.run(command, **how)
        assert ended.returncode == 0, ended.stderr[-4000:]
        made = {}
        for name, spec in registry.STAGES.items():
            partition = BATCH if spec.partitioned else manifest.WHOLE
            one = manifest.read(store, name, partition)
            assert one is not None, name
            made[name] = one.hash
            for record in one.files:
                store.verify(record)
        assert not [p for p in store.find("") if ".progress" in p]
        assert not (tiny.folder / "data").exists(), "nothing lies on the local disk"
        # No server of pages runs now: whatever were computed again would fail.
        ended = subprocess.run(command, **how)
        assert ended.returncode == 0, ended.stderr[-4000:]
        assert ended.stderr.count("up to date") == len(registry.STAGES)
        assert {name: _hash(store, name) for name in registry.STAGES} == made


def _hash(store: Store, name: str) -> str:
    found = manifest.read(store, name, BATCH if registry.get(name).partitioned else manifest.WHOLE)
    assert found is not None
    return found.hash
