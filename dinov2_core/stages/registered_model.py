"""The stage ``registered_model``: the model as a folder that ``Embedder.load`` opens, with its card, and the gate.

Putting the folder into a model registry is the orchestrator's work. Files are ``registered_model/all/
model-FINGERPRINT/{model.safetensors, config.json, card.md}``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from dinov2_core.embedder import FILE
from dinov2_core.model import weights
from dinov2_core.stage import StageRun
from dinov2_core.stages import training
from dinov2_core.stages.evaluation_metrics import TRAINED, UNTRAINED


@dataclass(frozen=True)
class Params:
    """``licence``: of the weights, as the card states it. ``minimum_gain``: what the gate asks of k-NN accuracy, as the
    lower end of the paired interval of trained minus untrained."""

    name: str = "dinov2"
    licence: str = "Apache-2.0; the rights in the training images remain with their owners"
    minimum_gain: float = 0.0


def run(run: StageRun) -> dict[str, Any]:
    """Export the folder and decide the gate."""
    params: Params = run.params
    backbone, preprocessing = training.read_backbone(
        run.store, training.output_path(run, "pretrained_checkpoint", "teacher", "safetensors")
    )
    metrics = run.read("evaluation_metrics", "metrics").to_pylist()
    composition = run.read("curated_lvd", "composition").to_pylist()
    gains = [row["low"] for row in metrics if row["protocol"] == "knn" and row["model"] == f"{TRAINED} - {UNTRAINED}"]
    passed = bool(gains) and min(gains) > params.minimum_gain
    described = weights.describe(backbone, preprocessing)
    data = {stage: [m.hash for m in run.manifests(stage)] for stage in sorted({m.stage for m in run.upstream.values()})}
    folder = f"{run.folder}/model-{run.fingerprint[:10]}"
    config = {**described, "name": params.name, "licence": params.licence, "data": data}
    card = _card(params, described, metrics, composition, passed)
    for name, content in (
        (FILE, weights.to_bytes(backbone, preprocessing)),
        ("config.json", json.dumps(config, indent=1, sort_keys=True).encode()),
        ("card.md", card.encode()),
    ):
        run.files.append(run.store.write_bytes(f"{folder}/{name}", content))
    return {
        "folder": folder,
        "gate_passed": passed,
        "smallest_gain_low": round(min(gains), 4) if gains else None,
        "parameters": sum(p.numel() for p in backbone.parameters()),
        "dim": backbone.config.dim,
    }


def _card(
    params: Params,
    described: dict[str, Any],
    metrics: list[dict[str, Any]],
    composition: list[dict[str, Any]],
    passed: bool,
) -> str:
    model = described["model"]
    about = (
        f"A self-supervised vision transformer (DINOv2 objective, arXiv 2304.07193): {model['depth']} blocks of width "
        f"{model['dim']}, patch {model['patch']}, input {described['preprocessing']['size']} pixels. "
        f"It turns an image into {model['dim']} numbers, L2-normalised; no label was used to train it."
    )
    lines = [
        f"# {params.name}",
        "",
        about,
        "",
        "## Training data",
        "",
        "| task | seed set | queries | mode | retrieved | final |",
        "|---|---|---|---|---|---|",
        *(
            f"| {r['task']} | {r['dataset']} | {r['queries']} | {r['mode']} | {r['retrieved']} | {r['final']} |"
            for r in composition
        ),
        "",
        "## Evaluation (frozen features, 95 % bootstrap interval)",
        "",
        "| data | protocol | model | metric | value | interval | images |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {r['dataset']} | {r['protocol']} | {r['model']} | {r['metric']} | {100 * r['value']:.1f} | "
            f"{100 * r['low']:.1f} to {100 * r['high']:.1f} | {r['count']} |"
            for r in metrics
        ),
        "",
        f"Gate (k-NN above the same network untrained, by more than its interval): {'passed' if passed else 'failed'}.",
        "",
        "## Licence",
        "",
        params.licence + ".",
        "",
        "## Limits",
        "",
        "- Trained on the images listed above only; expect little on other kinds of image or at other sizes.",
        "- Filters for unsafe content, faces and copies are models with errors of their own: see the curation report.",
        "- Features carry whatever bias the pool and the seeds have. No audit by group of people was made.",
        "",
    ]
    return "\n".join(lines)
