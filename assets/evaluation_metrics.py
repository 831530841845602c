"""Evaluation: every number with its interval, beside its controls.

The stage is ``dinov2_core/stages/evaluation_metrics.py``; here are its asset and its checks.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from assets.factory import stage_asset
from assets.gates import table_check
from dinov2_core import manifest
from dinov2_core.manifest import Manifest

PROTOCOLS = (
    "knn",
    "knn-few-shot",
    "linear",
    "linear-grid",
    "logistic",
    "finetune",
    "robustness",
    "corruptions",
    "fairness",
)
"""As the rows name them; one check each. Those that are not configured have no rows, which the check says."""


def attach(context: dg.AssetExecutionContext, lake: Any, tracking: Any, made: Manifest) -> Mapping[str, Any]:
    """Table and pictures of the scores as artifacts of the training's run, once a version of the table."""
    trained = manifest.read(lake.store(), "pretrained_checkpoint")
    assert trained is not None, "the stage has read it"
    client = tracking.client()
    run = tracking.find_run(client, "pretrained_checkpoint", trained.fingerprint)
    if run is None:
        return {}
    rows = lake.store().read_table(made.table("metrics")[0].path)
    path = f"evaluation/{made.hash[:12]}.json"
    # A table artifact is columns and rows, which MLflow shows; writing it anew is idempotent where log_table appends.
    table = {"columns": rows.column_names, "data": [list(row.values()) for row in rows.to_pylist()]}
    client.log_text(run.info.run_id, json.dumps(table), path)
    shown = json.loads(run.data.tags.get("mlflow.loggedArtifacts", "[]"))
    if {"path": path, "type": "table"} not in shown:
        client.set_tag(run.info.run_id, "mlflow.loggedArtifacts", json.dumps([*shown, {"path": path, "type": "table"}]))
    return {"table": path, "figures": _log_figures(client, run.info.run_id, lake.store(), made)}


def _log_figures(client: Any, run_id: str, store: Any, made: Manifest) -> str:
    """The pictures and charts of the evaluation as artifacts; the folder that they lie in."""
    from dinov2_core.stages.evaluation_metrics import read_figures

    target = f"evaluation/{made.hash[:12]}"
    with tempfile.TemporaryDirectory() as folder:
        for number, row in enumerate(read_figures(store, made)):
            words = re.sub(r"[^a-zA-Z0-9]+", "-", f"{row['dataset']} {row['name']}").strip("-")
            suffix = row["path"].rsplit(".", 1)[1]
            (Path(folder) / f"{number:02d}-{words}.{suffix}").write_bytes(store.read_bytes(row["path"]))
        client.log_artifacts(run_id, folder, target)
    return target


evaluation_metrics = stage_asset("evaluation_metrics", after=attach)


def protocol_check(protocol: str) -> dg.AssetChecksDefinition:
    """The scores of one protocol lie in their intervals, and every model that was scored has one."""
    name = protocol.replace("-", "_")

    @dg.asset_check(asset="evaluation_metrics", name=f"{name}_scores", description=f"What {protocol} gave is whole.")
    def body(lake: dg.ResourceParam[Any]) -> dg.AssetCheckResult:
        made = manifest.read(lake.store(), "evaluation_metrics")
        assert made is not None, "the check runs after its asset"
        table = lake.store().read_table(made.table("metrics")[0].path).to_pylist()
        return verdict(protocol, [row for row in table if row["protocol"] == protocol])

    return body


def verdict(protocol: str, rows: list[dict[str, Any]]) -> dg.AssetCheckResult:
    """Whether the rows of one protocol are whole."""
    if not rows:
        return dg.AssetCheckResult(passed=True, description="not configured: no rows")
    outside = [r for r in rows if not r["low"] <= r["value"] <= r["high"]]
    scored = {(r["dataset"], r["metric"]): set[str]() for r in rows}
    for row in rows:
        scored[row["dataset"], row["metric"]].add(row["model"])
    lacking = [key for key, models in scored.items() if "trained" not in models and key[1] != "difference"]
    values = {f"{r['dataset']} {r['model']} {r['metric']}": float(r["value"]) for r in rows}
    return dg.AssetCheckResult(
        passed=not outside and not lacking,
        description=f"{len(rows)} scores, {len(outside)} outside their interval, {len(lacking)} without the model",
        metadata=values,
    )


protocol_checks = [protocol_check(protocol) for protocol in PROTOCOLS]

metrics_check = table_check("evaluation_metrics", "metrics")
