"""The dense protocols: segmentation (linear, +ms) and depth (lin. 1, lin. 4, DPT), each a head trained and scored.

What a head is stands in ``segmentation.py`` and ``depth.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from dinov2_core.errors import UserError
from dinov2_core.evaluate import depth, segmentation
from dinov2_core.evaluate.datasets.dense import DepthSet, SegmentationSet
from dinov2_core.evaluate.model import EvalModel
from dinov2_core.evaluate.protocol import Context, NotApplicableError, Protocol, Score, Scores, score


@dataclass(frozen=True)
class DepthOptions:
    """``heads``: which of linear, linear4 and dpt; ``settings``: of each of them, but for its kind."""

    heads: tuple[depth.Kind, ...] = ("linear", "linear4", "dpt")
    settings: depth.DepthSettings = field(default_factory=depth.DepthSettings)


def run_segmentation(
    model: EvalModel, data: SegmentationSet, options: segmentation.SegmentationSettings, context: Context
) -> Scores:
    """Mean IoU, with an interval over images, and pixel accuracy."""
    settings = replace(options, schedule=replace(options.schedule, seed=context.seed))
    segmenter = segmentation.train_segmenter(model.backbone, model.preprocessing, data, settings)
    counts = segmentation.score(segmenter, data)
    interval = counts.interval(seed=context.seed)
    table = counts.table
    known = table[:, 2].sum(axis=1) > 0
    pixels = table[known, 0].sum(axis=1) / table[known, 2].sum(axis=1)
    scores = (
        Score("mIoU", interval.value, interval.low, interval.high, len(table)),
        score("pixel accuracy", pixels, note="mean over images", seed=context.seed),
    )
    name = "segmentation" if options.layers == 1 else "segmentation-ms"
    return Scores(
        name, data.name, scores, {"iou": dict(zip(data.classes, map(_plain, counts.iou().tolist()), strict=True))}
    )


def run_depth(model: EvalModel, data: DepthSet, options: DepthOptions, context: Context) -> Scores:
    """RMSE (and AbsRel, δ1) of each head, means over images."""
    if not data.train:
        raise NotApplicableError(
            f"{data.name} has test pictures only",
            todo="train a head on NYUd with depth.train_depth and score it with depth.score",
        )
    scores: list[Score] = []
    details: dict[str, dict[str, float | None]] = {}
    for kind in options.heads:
        schedule = replace(options.settings.schedule, seed=context.seed)
        settings = replace(options.settings, kind=kind, schedule=schedule)
        estimator = depth.train_depth(model.backbone, model.preprocessing, data, settings)
        found = depth.score(estimator, data)
        scores += depth_scores(kind, found, context.seed)
        details[kind] = {name: _plain(float(np.nanmean(values))) for name, values in found.items()}
    return Scores("depth", data.name, tuple(scores), details)


def depth_scores(kind: str, found: dict[str, np.ndarray], seed: int) -> list[Score]:
    """The three metrics that tables show; UserError where no picture has a pixel that counts."""
    counted = ~np.isnan(found["rmse"])
    if not counted.any():
        raise UserError("no test picture has a known depth inside the crop", todo="check the crop and the unit")
    return [
        score(f"{metric} {kind}", found[metric][counted], seed=seed, share=metric != "rmse")
        for metric in ("rmse", "abs_rel", "delta1")
    ]


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def run_multi_scale(model: EvalModel, data: SegmentationSet, options: MultiScaleSettings, context: Context) -> Scores:
    """As :func:`run_segmentation`, with the settings of +ms."""
    return run_segmentation(model, data, options.settings, context)


@dataclass(frozen=True)
class MultiScaleSettings:
    """The settings of +ms where nothing else is said."""

    settings: segmentation.SegmentationSettings = segmentation.MULTI_SCALE


SEGMENTATION = Protocol("segmentation", "dense", "segmentation", segmentation.SegmentationSettings, run_segmentation)
MULTI_SCALE = Protocol("segmentation-ms", "dense", "segmentation", MultiScaleSettings, run_multi_scale)
DEPTH = Protocol("depth", "dense", "depth", DepthOptions, run_depth)
