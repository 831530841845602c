"""A checkout of its own whose ``dvc.yaml`` has the toy pipeline's stages, written as the repository's are."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

from pipelines import versions
from tests import toy_pipeline

ROOT = Path(__file__).resolve().parents[2]
NAMES = tuple(toy_pipeline.STAGES)


@dataclass(frozen=True)
class Checkout:
    """A folder with git, DVC, settings and data."""

    folder: Path

    @property
    def env(self) -> dict[str, str]:
        keep = {k: v for k, v in os.environ.items() if not k.startswith(("DATA_ROOT", "DINOV2_", "DAGSTER_", "DVC_"))}
        who = {f"GIT_{role}_{what}": "t@example.org" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        quiet = {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore", "DVC_NO_ANALYTICS": "1", "AWS_MAX_ATTEMPTS": "2"}
        return {**keep, **who, **quiet, "DINOV2_WORKERS": "-1", "PATH": f"{Path(sys.executable).parent}:{keep['PATH']}"}

    def begin(self) -> Checkout:
        (self.folder / ".dvc").mkdir(parents=True)
        for name in (".dvcignore", ".gitignore", ".dvc/config"):
            shutil.copy(ROOT / name, self.folder / name)
        stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())
        for name, spec in toy_pipeline.STAGES.items():
            deps = [f"data/{upstream}" for upstream in spec.upstream]
            deps += [d for d in stages["stages"][name]["deps"] if d == "data/encoders"]
            deps = deps or ["data/sources"]
            stages["stages"][name] |= {"cmd": f"python -m tests.toy_materialize {name}", "deps": deps}
        stages["stages"] = {name: stages["stages"][name] for name in (versions.ENCODER, *NAMES)}
        stages["plots"] = []
        (self.folder / "dvc.yaml").write_text(yaml.safe_dump(stages, sort_keys=False))
        self.settings({})
        for batch in ("b1", "b2"):
            toy_pipeline.put(self.folder, batch, f"{batch[1:]}\n")
        self.git("init", "-q", "-b", "main")
        # What the tests count by is no part of the version.
        (self.folder / ".git" / "info" / "exclude").write_text("/calls/\n/v1.json\n")
        return self

    def settings(self, values: dict[str, dict[str, str]]) -> None:
        body = {"raw_crawl": {"sources": "sources"}, **{name: {"encoder": "champion"} for name in NAMES[1:]}, **values}
        (self.folder / "params.yaml").write_text(yaml.safe_dump(body))

    def run(self, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.folder,
            env={**self.env, **env},
            capture_output=True,
            text=True,
            check=False,
            timeout=500,
        )

    def git(self, *arguments: str) -> str:
        ended = self.run("git", *arguments)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def keep(self, name: str) -> None:
        """Commit everything and call it ``name``."""
        self.git("add", "-A")
        self.git("commit", "-q", "-m", name)
        self.git("tag", name)

    def dvc(self, *arguments: str, fails: bool = False, **env: str) -> str:
        ended = self.run(sys.executable, "-m", "dvc", *arguments, **env)
        said = ended.stdout + ended.stderr
        assert (ended.returncode != 0) is fails, said
        return said

    def dagster(self, *names: str) -> str:
        """Run stages as the UI does, through Dagster."""
        ended = self.run(sys.executable, "-m", "tests.toy_materialize", *(names or NAMES))
        assert ended.returncode == 0, ended.stderr[-3000:]
        return ended.stderr

    def calls(self) -> int:
        return len(toy_pipeline.calls(self.folder))

    def manifests(self) -> dict[str, str]:
        return toy_pipeline.manifests(self.folder)
