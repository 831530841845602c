"""The stage ``registered_model``: the model as a folder that ``Embedder.load`` opens, with its card, and what the gate
needs to know of the data: whether the training set shows evaluation images.

Putting the folder into a model registry is the orchestrator's work, and so is the gate. Files are
``registered_model/all/model-FINGERPRINT/{model.safetensors, config.json, card.md}``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from dinov2_core import model_card, stage
from dinov2_core.config import to_plain
from dinov2_core.curation.scratch import MEMORY
from dinov2_core.embedder import FILE
from dinov2_core.model import weights
from dinov2_core.stage import StageRun
from dinov2_core.stages import training, training_leaks
from dinov2_core.stages.evaluation_metrics import TRAINED, UNTRAINED


@dataclass(frozen=True)
class Params:
    """``licence``: of the weights, as the card states it. ``wanted``: the protocol whose accuracy must rise before the
    model becomes champion. ``minimum_gain``: what the lower end of its paired interval of trained minus untrained must
    exceed."""

    name: str = "dinov2"
    licence: str = "Apache-2.0; the rights in the training images remain with their owners"
    wanted: str = "knn"
    minimum_gain: float = 0.0
    memory: int = stage.efficiency(MEMORY)


def run(run: StageRun) -> dict[str, Any]:
    """Export the folder and count leaks."""
    params: Params = run.params
    backbone, preprocessing = training.read_backbone(
        run.store, training.output_path(run, "pretrained_checkpoint", "teacher", "safetensors")
    )
    metrics = run.read("evaluation_metrics", "metrics").to_pylist()
    difference = f"{TRAINED} - {UNTRAINED}"
    gains = [row["low"] for row in metrics if row["protocol"] == params.wanted and row["model"] == difference]
    leaks = training_leaks.count(run, params.memory)
    described = weights.describe(backbone, preprocessing)
    data = {name: [m.hash for m in run.manifests(name)] for name in sorted({m.stage for m in run.upstream.values()})}
    folder = f"{run.folder}/model-{run.fingerprint[:10]}"
    config = {**described, "name": params.name, "licence": params.licence, "data": data}
    card = model_card.write(
        model_card.Facts(
            name=params.name,
            licence=params.licence,
            model=to_plain(backbone.config),
            preprocessing=to_plain(preprocessing),
            parameters=sum(p.numel() for p in backbone.parameters()),
            composition=run.read("curated_lvd", "composition").to_pylist(),
            images=sum(record.rows or 0 for m in run.manifests("curated_lvd") for record in m.table("packed")),
            metrics=metrics,
            leaks=leaks,
            manifests={m.key: m.hash for m in run.upstream.values()},
        )
    )
    for name, content in (
        (FILE, weights.to_bytes(backbone, preprocessing)),
        ("config.json", json.dumps(config, indent=1, sort_keys=True).encode()),
        ("card.md", card.encode()),
    ):
        run.files.append(run.store.write_bytes(f"{folder}/{name}", content))
    return {
        "folder": folder,
        "gate_passed": bool(gains) and min(gains) > params.minimum_gain and not sum(leaks.values()),
        "smallest_gain_low": round(min(gains), 4) if gains else None,
        "leaks": leaks,
        "parameters": sum(p.numel() for p in backbone.parameters()),
        "dim": backbone.config.dim,
    }
