"""The list of stages: names, what each reads, where its code is. The one place that says what the graph is.

Orchestrators, the command line and ``dvc.yaml`` are made from (or tested against) this list. Importing it imports
no algorithm.
"""

from __future__ import annotations

from dinov2_core.errors import UserError, nearest
from dinov2_core.stage import StageSpec

_HERE = "dinov2_core.stages"


def _stage(name: str, group: str, description: str, **rest: object) -> StageSpec:
    module = str(rest.pop("module", name))
    external = f"{_HERE}.{module}:external" if rest.pop("external", False) else ""
    params = f"{_HERE}.{module}:{rest.pop('params', 'Params')}"
    run = f"{_HERE}.{module}:{rest.pop('run', 'run')}"
    return StageSpec(name, group, description, run=run, params=params, external=external, **rest)  # type: ignore[arg-type]


_ALL = (
    _stage(
        "raw_crawl",
        "crawl",
        "Page archives, live pages or URL lists → images in shards, one row an image reference with its fate.",
        partitioned=True,
        external=True,
        kinds=("parquet", "tar"),
    ),
    _stage(
        "filtered_set",
        "safety",
        "Decoding, quality, PCA-hash near-exact duplicates, NSFW score, face detection and blur: a verdict an image.",
        upstream={"raw_crawl": "same"},
        partitioned=True,
        external=True,
        kinds=("parquet", "onnx"),
    ),
    _stage(
        "copy_embeddings",
        "dedup",
        "Copy-detection embedding (SSCD, 512-d) of every image that passed the filter.",
        upstream={"filtered_set": "same"},
        partitioned=True,
        external=True,
        kinds=("parquet", "onnx"),
    ),
    _stage(
        "copy_edges",
        "dedup",
        "Neighbours (k = 64, cosine > 0.6) within the batch and against every earlier one.",
        upstream={"filtered_set": "earlier", "copy_embeddings": "earlier"},
        partitioned=True,
        kinds=("parquet", "faiss"),
    ),
    _stage(
        "benchmark_sets",
        "dedup",
        "The evaluation sets: packed, labelled, and the copy-detection embeddings of what must not leak.",
        external=True,
        kinds=("parquet", "tar"),
    ),
    _stage(
        "benchmark_edges",
        "dedup",
        "Neighbours (cosine > 0.45) of the batch's images among the evaluation sets' images.",
        upstream={"filtered_set": "same", "copy_embeddings": "same", "benchmark_sets": "all"},
        partitioned=True,
        kinds=("parquet", "faiss"),
    ),
    _stage(
        "deduplicated_set",
        "dedup",
        "Connected components: one image kept a component; components that touch a benchmark dropped whole.",
        upstream={"filtered_set": "all", "copy_embeddings": "all", "copy_edges": "all", "benchmark_edges": "all"},
        kinds=("parquet",),
    ),
    _stage(
        "seed_sets",
        "curation",
        "The curated query sets, packed into shards.",
        external=True,
        kinds=("parquet", "tar"),
    ),
    _stage(
        "preliminary_encoder",
        "curation",
        "A small self-supervised ViT trained on the seeds; it embeds the pool the first time round.",
        upstream={"seed_sets": "all"},
        kinds=("torch",),
    ),
    _stage(
        "embeddings",
        "curation",
        "Retrieval embedding of every image that passed the filter.",
        upstream={"filtered_set": "same", "preliminary_encoder": "all"},
        partitioned=True,
        external=True,
        kinds=("parquet", "torch"),
    ),
    _stage(
        "seed_embeddings",
        "curation",
        "Retrieval embedding of the seeds, by the same encoder.",
        upstream={"seed_sets": "all", "preliminary_encoder": "all"},
        external=True,
        kinds=("parquet", "torch"),
    ),
    _stage(
        "clusters",
        "curation",
        "k-means over the deduplicated pool, with assignments.",
        upstream={"deduplicated_set": "all", "embeddings": "all"},
        kinds=("parquet", "faiss"),
        external=True,
    ),
    _stage(
        "curated_lvd",
        "curation",
        "Retrieval around the seeds, mixed by recipe: selections, composition (paper, table 15), training shards.",
        upstream={
            "deduplicated_set": "all",
            "embeddings": "all",
            "seed_sets": "all",
            "seed_embeddings": "all",
            "benchmark_sets": "all",
            "clusters": "all",
        },
        kinds=("parquet", "tar"),
    ),
    _stage(
        "pretrained_checkpoint",
        "training",
        "DINOv2 pretraining on the curated set: DINO + iBOT + KoLeo, Sinkhorn-Knopp, EMA teacher.",
        upstream={"curated_lvd": "all"},
        kinds=("torch", "mlflow"),
    ),
    _stage(
        "distilled_checkpoints",
        "training",
        "Smaller students of the frozen teacher; the student's EMA is what ships.",
        upstream={"pretrained_checkpoint": "all", "curated_lvd": "all"},
        kinds=("torch", "mlflow"),
    ),
    _stage(
        "evaluation_metrics",
        "evaluation",
        "Every protocol with data at hand, beside raw pixels and the same ViT untrained.",
        upstream={"pretrained_checkpoint": "all", "distilled_checkpoints": "all", "benchmark_sets": "all"},
        version="2",
        kinds=("parquet", "mlflow"),
    ),
    _stage(
        "registered_model",
        "release",
        "The model folder (safetensors, config, card), registered; champion only when the gate passes.",
        upstream={
            "pretrained_checkpoint": "all",
            "evaluation_metrics": "all",
            "curated_lvd": "all",
            "deduplicated_set": "all",
            "benchmark_sets": "all",
            "benchmark_edges": "all",
        },
        version="2",
        kinds=("mlflow",),
    ),
    _stage(
        "curation_report",
        "release",
        "The data card as one page: funnel, composition, galleries, leakage, loss curve, accuracy.",
        upstream={
            "raw_crawl": "all",
            "filtered_set": "all",
            "deduplicated_set": "all",
            "copy_edges": "all",
            "benchmark_edges": "all",
            "benchmark_sets": "all",
            "seed_sets": "all",
            "embeddings": "all",
            "seed_embeddings": "all",
            "curated_lvd": "all",
            "pretrained_checkpoint": "all",
            "evaluation_metrics": "all",
        },
        version="2",
        external=True,
        kinds=("html",),
    ),
)

STAGES: dict[str, StageSpec] = {spec.name: spec for spec in _ALL}
"""All stages in an order in which they can run."""


def get(name: str) -> StageSpec:
    """The stage ``name``; a :class:`UserError` with the nearest name where there is none."""
    if name not in STAGES:
        raise UserError(f"no stage '{name}'{nearest(name, STAGES)}", todo=f"stages: {', '.join(STAGES)}")
    return STAGES[name]


def downstream(name: str) -> list[str]:
    """Stages that read ``name``, directly."""
    return [s.name for s in STAGES.values() if name in s.upstream]
