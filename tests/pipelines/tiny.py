"""A tiny run of the whole pipeline in a folder of its own: the demo's world with some hundred images."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]

OVERRIDES: dict[str, dict[str, Any]] = {
    "deduplicated_set": {"sample": 60},
    "preliminary_encoder": {"overrides": {"steps": 6, "batch": 16}},
    # As for a flywheel: until a version is adopted, the preliminary encoder embeds.
    "embeddings": {"encoder": "champion"},
    "seed_embeddings": {"encoder": "champion"},
    "clusters": {"clusters": 12},
    "pretrained_checkpoint": {"overrides": {"steps": 24, "batch": 16}, "checkpoint_every": 4},
    "distilled_checkpoints": {"overrides": {"steps": 6, "batch": 16}},
    # So few steps may teach nothing; what else stands before a champion holds.
    "registered_model": {"minimum_gain": -1.0},
}


@dataclass(frozen=True)
class Tiny:
    """Where a tiny run keeps its data, its Dagster home and its tracker."""

    folder: Path

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def env(self) -> dict[str, str]:
        return {
            **os.environ,
            "DATA_ROOT": str(self.data),
            "DINOV2_PARAMS": str(self.folder / "params.yaml"),
            "DAGSTER_HOME": str(self.folder / "dagster"),
            "MLFLOW_TRACKING_URI": f"sqlite:///{self.folder}/mlflow.db",
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "ignore",
        }

    def prepare(self) -> Tiny:
        params = yaml.safe_load((ROOT / "params.yaml").read_text())
        for name, values in OVERRIDES.items():
            merged = {**(params[name] or {}), **values}
            if "overrides" in values:
                merged["overrides"] = {**(params[name] or {}).get("overrides", {}), **values["overrides"]}
            params[name] = merged
        params["raw_crawl"]["hosts"] = {"*": f"127.0.0.1:{free_port()}"}
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "params.yaml").write_text(yaml.safe_dump(params))
        return self

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "pipelines.demo", "--tiny", *arguments]

    def run(self, command: list[str], **settings: Any) -> subprocess.CompletedProcess[str]:
        """Run in the checkout's folder, as a person would, but with this run's places; artifacts go to the folder."""
        return subprocess.run(
            command, cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=600, check=False, **settings
        )

    def manifests(self) -> dict[str, str]:
        """``stage/partition`` → the manifest's own text."""
        found = sorted(self.data.glob("*/*/manifest.json"))
        return {f"{p.parent.parent.name}/{p.parent.name}": p.read_text() for p in found}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
