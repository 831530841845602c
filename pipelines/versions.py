"""The data's versions in the checkout: ``metrics/STAGE.json``, ``plots/*.csv`` and ``dvc.lock``, for git to keep.

Whoever runs a stage (UI, schedule, command, DVC itself) leaves them as DVC would, so that each finds the other's work
up to date. ``python -m pipelines.versions`` writes the first two for any data root, for instance one in a bucket, which
DVC does not track; with ``adopted_encoder`` it is the command of the one DVC stage that is no asset. What a version
refers to is read by ``dinov2_core/kept.py``.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dinov2_core import adopted_encoder, manifest, stage
from dinov2_core.errors import UserError
from dinov2_core.kept import METRICS
from dinov2_core.manifest import WHOLE, Manifest
from dinov2_core.stages import registry
from dinov2_core.storage import Store
from pipelines.resources.lake import Lake

PLOTS = "plots"
ENCODER = "adopted_encoder"
"""In ``dvc.yaml`` the encoder that a person adopted, which the embedding stages follow: its output is an input."""
ATTEMPTS = 4
log = logging.getLogger(__name__)


def record(lake: Lake, names: Iterable[str]) -> list[str]:
    """Record the stages of ``names`` that are up to date, where the data root is this checkout's; those recorded.

    Never raises for what DVC answers: a run that succeeded has succeeded, and `dvc commit` can be said again.
    """
    here, store = Path.cwd(), lake.store()
    if not _tracked(store, here):
        return []
    fresh = [name for name in names if name in registry.STAGES and up_to_date(lake, name)]
    try:
        for name in fresh:
            write(store, name, here)
        adopted_encoder.say_none(store)
    except (OSError, UserError) as error:
        log.warning("the checkout does not name this version yet: %s", error)
        return []
    # DVC records what its own commands made, and holds its lock meanwhile.
    if fresh and "DVC_STAGE" not in os.environ:
        _commit(here, [ENCODER, *fresh])
    return fresh


def record_adoption(lake: Lake) -> None:
    """Have DVC know the adopted encoder, so that what was embedded by another is changed to it as it is to Dagster."""
    if _tracked(lake.store(), Path.cwd()):
        _commit(Path.cwd(), [ENCODER])


def _tracked(store: Store, here: Path) -> bool:
    """Whether the data root is this checkout's, and DVC follows it."""
    ours = store.local and Path(store.base).resolve() == here / "data"
    return ours and (here / "dvc.yaml").exists() and (here / ".dvc").is_dir()


def up_to_date(lake: Lake, name: str) -> bool:
    """Whether every partition of a stage is."""
    spec = registry.get(name)
    params = spec.load_params(lake.params(name))
    try:
        partitions = lake.batches() if spec.partitioned else [WHOLE]
        return all(stage.state(lake.store(), spec, one, params)[2] is not None for one in partitions)
    except UserError:
        return False


def _commit(here: Path, names: list[str]) -> None:
    command = [sys.executable, "-m", "dvc", "commit", "--quiet", "--force", *names]
    for attempt in range(ATTEMPTS):
        ended = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)  # noqa: S603
        said = (ended.stderr + ended.stdout).strip()
        if not ended.returncode:
            return
        if "lock" not in said:
            break
        time.sleep(attempt + 1)
    line = said.splitlines()[-1] if said else "no message"
    log.warning("dvc.lock does not name this version yet (%s); `dvc commit` will do it", line)


def write(store: Store, name: str, here: Path) -> None:
    """Write what a checkout says of one stage: its manifests' hashes, its counts and scores, its curves."""
    made = [manifest.read(store, name, partition) for partition in manifest.partitions(store, name)]
    found = [one for one in made if one is not None]
    body: dict[str, Any] = {"manifest": {one.partition: one.hash for one in found}, "counts": _counts(found)}
    if name == "evaluation_metrics":
        rows = _rows(store, found, "metrics")
        body["scores"] = _nested(rows)
        _csv(here, "scores", [{k: row[k] for k in ("dataset", "protocol", "model", "metric", "value")} for row in rows])
    elif name == "pretrained_checkpoint":
        _csv(here, "history", _by_step(_rows(store, found, "history")))
    elif name == "curated_lvd":
        _csv(here, "composition", _rows(store, found, "composition"))
    _put(here / METRICS / f"{name}.json", json.dumps(body, indent=1, sort_keys=True) + "\n")


def _counts(found: list[Manifest]) -> dict[str, Any]:
    if len(found) == 1:
        return {k: v for k, v in found[0].counts.items() if isinstance(v, bool | int | float | str)}
    total: dict[str, int] = {}
    for one in found:
        for key, value in one.counts.items():
            if isinstance(value, int) and not isinstance(value, bool):
                total[key] = total.get(key, 0) + value
    return total


def _rows(store: Store, found: list[Manifest], table: str) -> list[dict[str, Any]]:
    return [row for one in found for part in one.table(table) for row in store.read_table(part.path).to_pylist()]


def _nested(rows: list[dict[str, Any]]) -> dict[str, Any]:
    scores: dict[str, Any] = {}
    for row in rows:
        scores.setdefault(row["dataset"], {}).setdefault(row["protocol"], {})[row["model"]] = row["value"]
    return scores


def _by_step(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    steps: dict[int, dict[str, Any]] = {}
    for row in rows:
        steps.setdefault(row["step"], {"step": row["step"]})[row["name"]] = row["value"]
    return [steps[step] for step in sorted(steps)]


def _csv(here: Path, stem: str, rows: list[Mapping[str, Any]] | list[dict[str, Any]]) -> None:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    _put(here / PLOTS / f"{stem}.csv", out.getvalue())


def _put(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    temporary.write_text(text)
    os.replace(temporary, path)


def main(arguments: list[str]) -> int:
    """Write the files of every stage that the data root holds, into this folder."""
    store = Lake.from_environment().store()
    if arguments == [ENCODER]:
        adopted_encoder.say_none(store)
        return 0
    if arguments:
        raise SystemExit(f"usage: python -m pipelines.versions [{ENCODER}]")
    for name in registry.STAGES:
        if manifest.partitions(store, name):
            write(store, name, Path.cwd())
            print(f"{METRICS}/{name}.json")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
