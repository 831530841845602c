"""The toy pipeline in processes of their own: as the entry of jobs, and as a program that waits for one."""

from __future__ import annotations

import sys
from pathlib import Path

from dinov2_core.stages import registry
from pipelines.resources.engine import Engine
from tests import toy_pipeline


def interpreter(path: Path) -> str:
    """A stand-in for the cluster's interpreter, that knows the toy stages: the path of a script."""
    code = "import sys; from tests.engines import toy_job; sys.exit(toy_job.entry(sys.argv[3:]))"
    path.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{code}' \"$@\"\n")
    path.chmod(0o755)
    return str(path)


def entry(arguments: list[str]) -> int:
    from pipelines.launchers import job_entry

    registry.STAGES = toy_pipeline.STAGES  # type: ignore[assignment]
    return job_entry.main(arguments)


def wait(folder: str, address: str) -> None:
    """Have ``seed_embeddings`` made by a job and wait, in Dagster as a run does."""
    import dagster as dg

    registry.STAGES = toy_pipeline.STAGES  # type: ignore[assignment]
    place = Path(folder)
    engine = Engine(address=address, job_folder=str(Path.cwd()), job_python=str(place / "python"))
    (asset,) = [a for a in toy_pipeline.assets() if getattr(a, "key", None) == dg.AssetKey("seed_embeddings")]
    resources = {"lake": toy_pipeline.lake(place), "engine": engine, "tracking": 0}
    with dg.DagsterInstance.ephemeral() as instance:
        made = dg.materialize([asset], resources=resources, instance=instance, raise_on_error=False)
    sys.exit(0 if made.success else 1)
