"""The stage ``evaluation_metrics``: k-NN and a linear probe on every labelled benchmark, beside their controls.

The controls are raw pixels and the same ViT before its first step; each score has its bootstrap interval, and each
difference to a control the paired one. The protocols themselves are in ``evaluate``.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dinov2_core import tables
from dinov2_core.errors import UserError
from dinov2_core.evaluate import evaluation, protocols
from dinov2_core.evaluate.answer_figures import classification_figures, neighbour_figure
from dinov2_core.evaluate.bootstrap import Interval, mean_interval, paired_difference
from dinov2_core.evaluate.cache import FeatureCache
from dinov2_core.evaluate.datasets.labelled import LabelledSet, Picture, Split
from dinov2_core.evaluate.features import extract, pixel_features
from dinov2_core.evaluate.figures import Figure
from dinov2_core.evaluate.knn import knn_predict, nearest, votes
from dinov2_core.evaluate.linear import linear_probe
from dinov2_core.evaluate.model import EvalModel
from dinov2_core.evaluate.patch_figures import patch_figure
from dinov2_core.evaluate.protocol import Context, Scores
from dinov2_core.images.pool import load_pool
from dinov2_core.manifest import Manifest
from dinov2_core.model.preprocessing import Preprocessing
from dinov2_core.model.vision_transformer import VisionTransformer
from dinov2_core.progress import track
from dinov2_core.stage import StageRun
from dinov2_core.stages import training
from dinov2_core.storage import Store

TRAINED, DISTILLED, UNTRAINED, PIXELS = "trained", "distilled", "untrained", "pixels"


@dataclass(frozen=True)
class Params:
    """``k``, ``temperature``: of the k-NN vote (paper: 20, 0.07). ``train``, ``test``: the most images of each split.

    A split that is larger is sampled by ``seed``. ``protocols``: more protocols of ``evaluate`` that take labelled
    images, with their ``settings`` by name; each runs on every model. Rows of ``linear`` are named ``linear-grid``.
    """

    k: int = 20
    temperature: float = 0.07
    train: int = 5000
    test: int = 2000
    linear_c: tuple[float, ...] = (0.001, 0.01, 0.1)
    bootstrap: int = 2000
    seed: int = 0
    protocols: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)


def run(run: StageRun) -> dict[str, Any]:
    """Evaluate on every benchmark that has labelled ``train`` and ``test`` splits."""
    params: Params = run.params
    check(params, run.where)
    labelled = run.read("benchmark_sets", "labelled").to_pylist()
    rows: list[dict[str, Any]] = []
    figures: list[tuple[str, Figure]] = []
    skipped = []
    for dataset in sorted({row["dataset"] for row in labelled}):
        own = [row for row in labelled if row["dataset"] == dataset and row["label"] is not None]
        splits = {name: [row for row in own if row["split"] == name] for name in ("train", "test")}
        if all(splits.values()):
            found, drawn = _evaluate(run, params, dataset, splits)
            rows += found
            figures += [(dataset, figure) for figure in drawn]
        else:
            skipped.append(dataset)
    if not rows:
        raise UserError(
            "no benchmark has labelled splits 'train' and 'test'", where=run.where, todo="add one to benchmark_sets"
        )
    run.write_table("metrics", tables.from_rows(rows, tables.METRICS))
    write_figures(run, figures)
    run.tracker(0, {f"{r['dataset']}.{r['protocol']}.{r['model']}": r["value"] for r in rows})
    counts = {f"{r['dataset']} {r['protocol']} {r['model']}": round(r["value"], 4) for r in rows}
    return {**counts, "skipped": skipped}


def _evaluate(
    run: StageRun, params: Params, dataset: str, splits: Mapping[str, list[dict[str, Any]]]
) -> tuple[list[dict[str, Any]], list[Figure]]:
    recipe = training.read_recipe(run, "pretrained_checkpoint")
    preprocessing = training.preprocessing_of(recipe)
    names = sorted({row["label"] for row in splits["train"]})
    images, labels = {}, {}
    for split, limit in (("train", params.train), ("test", params.test)):
        chosen = _sample(splits[split], limit, params.seed)
        unknown = sorted({row["label"] for row in chosen} - set(names))
        if unknown:
            raise UserError(
                f"test labels without a train image: {', '.join(unknown)}",
                where=f"{run.where}: {dataset}",
                todo="give train images of every class",
            )
        pool = load_pool(run.store, chosen, preprocessing.size, label=f"{run.where}: {dataset} {split}")
        if pool.refused:
            # A test image that silently drops out changes the score.
            index, reason = pool.refused[0]
            raise UserError(
                f"{len(pool.refused)} images do not decode, the first: {chosen[index]['key']} ({reason})",
                where=f"{run.where}: {dataset} {split}",
                todo="mend the benchmark's files",
            )
        images[split] = torch.from_numpy(pool.pixels)
        labels[split] = np.array([names.index(row["label"]) for row in chosen], dtype=np.int64)
    teacher, _ = training.read_backbone(
        run.store, training.output_path(run, "pretrained_checkpoint", "teacher", "safetensors")
    )
    student, _ = training.read_backbone(
        run.store, training.output_path(run, "distilled_checkpoints", "student", "safetensors")
    )
    backbones = {TRAINED: teacher, DISTILLED: student, UNTRAINED: training.untrained_backbone(recipe)}
    features = {
        model: (
            extract(backbone, images["train"], preprocessing),
            extract(backbone, images["test"], preprocessing),
        )
        for model, backbone in backbones.items()
    }
    features[PIXELS] = pixel_features(images["train"], images["test"])
    right: dict[str, dict[str, np.ndarray]] = {"knn": {}, "linear": {}}
    figures = _figures(params, teacher, preprocessing, features[TRAINED], images, labels, names)
    for model, (train, test) in track(features.items(), f"{run.where}: {dataset}: models", len(features)):
        votes = knn_predict(
            train, torch.from_numpy(labels["train"]), test, k=params.k, temperature=params.temperature
        ).numpy()
        right["knn"][model] = votes == labels["test"]
        probe = linear_probe(train.numpy(), labels["train"], test.numpy(), grid=params.linear_c, seed=params.seed)
        right["linear"][model] = probe.predictions == labels["test"]
    rows = [row for protocol, scores in right.items() for row in _rows(params, dataset, protocol, scores)]
    if params.protocols:
        one, two = (_decoded(split, images[split], labels[split]) for split in ("train", "test"))
        data = LabelledSet(dataset, tuple(names), one, two)
        with tempfile.TemporaryDirectory() as folder:
            context = Context(FeatureCache(Path(folder)), seed=params.seed)
            for title, backbone in backbones.items():
                evaluated = EvalModel.of(backbone, preprocessing, name=title)
                results = evaluation.evaluate(evaluated, data, params.protocols, context, params.settings).results
                rows += _more(title, data, results)
                if title == TRAINED:
                    figures += [figure for result in results for figure in result.figures if result.protocol != "knn"]
    return rows, figures


def check(params: Params, where: str) -> None:
    """UserError where a protocol is unknown or takes no labelled images; ConfigError for settings of none."""
    for name in params.protocols:
        if protocols.get(name).needs != "labelled":
            todo = f"one of {', '.join(p for p in protocols.PROTOCOLS if protocols.get(p).needs == 'labelled')}"
            raise UserError(f"'{name}' needs {protocols.get(name).needs} data", where=where, todo=todo)
    evaluation.check_settings(params.settings)


@dataclass(frozen=True)
class _Decoded(Picture):
    """A picture that the pool has decoded already."""

    image: np.ndarray | None = None

    def pixels(self) -> np.ndarray:
        assert self.image is not None, "made with its pixels"
        return self.image

    def state(self) -> str:
        assert self.image is not None, "made with its pixels"
        return hashlib.sha256(self.image.tobytes()).hexdigest()


def _decoded(name: str, images: torch.Tensor, labels: np.ndarray) -> Split:
    arrays = images.permute(0, 2, 3, 1).contiguous().numpy()
    return Split(name, tuple(_Decoded(f"{name} {i}", None, a) for i, a in enumerate(arrays)), labels)


def _more(model: str, data: LabelledSet, results: Sequence[Scores]) -> list[dict[str, Any]]:
    return [
        {
            "dataset": data.name,
            "protocol": "linear-grid" if result.protocol == "linear" else result.protocol,
            "model": model,
            "metric": "accuracy" if s.name == data.metric else s.name,
            "value": s.value,
            "low": s.low,
            "high": s.high,
            "count": s.n,
        }
        for result in results
        for s in result.scores
    ]


def _figures(
    params: Params,
    backbone: VisionTransformer,
    preprocessing: Preprocessing,
    features: tuple[torch.Tensor, torch.Tensor],
    images: Mapping[str, torch.Tensor],
    labels: Mapping[str, np.ndarray],
    names: list[str],
) -> list[Figure]:
    """What the trained model sees in test pictures, their neighbours in train, and what k-NN answers."""
    shown = {split: images[split].permute(0, 2, 3, 1).contiguous().numpy() for split in ("train", "test")}
    found = nearest(*features, max(params.k, 6))
    index = found.index.numpy()
    right = labels["train"][index] == labels["test"][:, None]
    train = torch.from_numpy(labels["train"])
    shares = votes(found, train, params.k, temperature=params.temperature, classes=len(names))
    some = np.linspace(0, len(shown["test"]) - 1, min(4, len(shown["test"]))).round().astype(int)
    return [
        patch_figure(backbone, preprocessing, [shown["test"][i] for i in some]),
        neighbour_figure("knn", lambda i: shown["test"][i], lambda i: shown["train"][i], index, right),
        *classification_figures(f"knn k={params.k}", shares, labels["test"], names),
    ]


def write_figures(run: StageRun, figures: Sequence[tuple[str, Figure]]) -> None:
    """The files of ``(data set, figure)``, and ``figures….json``: their names and captions in order."""
    listed = []
    for number, (dataset, figure) in enumerate(figures):
        path = run.name("figure", figure.suffix, number)
        run.files.append(run.store.write_bytes(path, figure.data()))
        listed.append({"path": path, "dataset": dataset, "name": figure.name, "caption": figure.caption})
    run.write_file("figures", "json", json.dumps(listed, indent=1).encode())


def read_figures(store: Store, made: Manifest) -> list[dict[str, str]]:
    """``path``, ``dataset``, ``name`` and ``caption`` of each figure; none in a manifest from before there were any."""
    index = [record for record in made.files if record.path.endswith(".json")]
    return list(json.loads(store.read_bytes(index[0].path))) if index else []


def _rows(params: Params, dataset: str, protocol: str, right: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    def row(model: str, metric: str, interval: Interval) -> dict[str, Any]:
        return {
            "dataset": dataset,
            "protocol": protocol,
            "model": model,
            "metric": metric,
            "value": interval.value,
            "low": interval.low,
            "high": interval.high,
            "count": len(right[TRAINED]),
        }

    options = {"draws": params.bootstrap, "seed": params.seed}
    rows = [row(model, "accuracy", mean_interval(scores, **options)) for model, scores in right.items()]
    for control in (UNTRAINED, PIXELS):
        difference = paired_difference(right[TRAINED], right[control], **options)
        rows.append(row(f"{TRAINED} - {control}", "difference", difference))
    return rows


def _sample(rows: list[dict[str, Any]], limit: int, seed: int) -> list[dict[str, Any]]:
    rows = sorted(rows, key=lambda row: (row["image_id"], row["key"] or ""))
    if len(rows) <= limit:
        return rows
    chosen = np.random.default_rng(seed).choice(len(rows), limit, replace=False)
    return [rows[i] for i in sorted(chosen)]
