"""The dense protocols: segmentation (linear, +ms) and depth (lin. 1, lin. 4, DPT), each a head trained and scored.

What a head is stands in ``segmentation.py`` and ``depth.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from dinov2_core.errors import UserError
from dinov2_core.evaluate import dense_figures, depth, segmentation
from dinov2_core.evaluate.datasets.dense import DepthSet, SegmentationSet
from dinov2_core.evaluate.model import EvalModel
from dinov2_core.evaluate.protocol import Context, NotApplicableError, Protocol, Score, Scores, score


@dataclass(frozen=True)
class DepthOptions:
    """``heads``: which of linear, linear4 and dpt; ``settings``: of each of them, but for its kind.

    ``also``: other sets, ``NAME=PATH``, that the same heads are tested on: the paper's NYUd → SUN RGB-D is
    ``sun-rgbd=PATH`` on ``nyu`` data (section 7.4, table 11).
    """

    heads: tuple[depth.Kind, ...] = ("linear", "linear4", "dpt")
    settings: depth.DepthSettings = field(default_factory=depth.DepthSettings)
    also: tuple[str, ...] = ()


def run_segmentation(
    model: EvalModel, data: SegmentationSet, options: segmentation.SegmentationSettings, context: Context
) -> Scores:
    """Mean IoU, with an interval over images, and pixel accuracy."""
    settings = replace(options, schedule=replace(options.schedule, seed=context.seed))
    segmenter = segmentation.train_segmenter(model.backbone, model.preprocessing, data, settings, context.processes)
    counts = segmentation.score(segmenter, data, context.processes)
    interval = counts.interval(seed=context.seed)
    table = counts.table
    known = table[:, 2].sum(axis=1) > 0
    pixels = table[known, 0].sum(axis=1) / table[known, 2].sum(axis=1)
    scores = (
        Score("mIoU", interval.value, interval.low, interval.high, len(table)),
        score("pixel accuracy", pixels, note="mean over images", seed=context.seed),
    )
    name = "segmentation" if options.layers == 1 else "segmentation-ms"
    details = {"iou": dict(zip(data.classes, map(_plain, counts.iou().tolist()), strict=True))}
    return Scores(name, data.name, scores, details, (dense_figures.segmentation_figure(name, segmenter, data),))


def run_depth(model: EvalModel, data: DepthSet, options: DepthOptions, context: Context) -> Scores:
    """RMSE (and AbsRel, δ1) of each head, means over images; of each set in ``also`` with its name before."""
    if not data.train:
        raise NotApplicableError(
            f"{data.name} has test pictures only",
            where="depth",
            todo="give the set that heads are trained on as the data (nyu=PATH), and this one in the setting `also`",
        )
    others = [_opened(spec) for spec in options.also]
    scores: list[Score] = []
    details: dict[str, dict[str, float | None]] = {}
    figures = []
    for kind in options.heads:
        schedule = replace(options.settings.schedule, seed=context.seed)
        settings = replace(options.settings, kind=kind, schedule=schedule)
        estimator = depth.train_depth(model.backbone, model.preprocessing, data, settings, context.processes)
        for tested in (data, *others):
            found = depth.score(estimator, tested, context.processes)
            prefix = "" if tested is data else f"{tested.name}: "
            figures.append(dense_figures.depth_figure(f"{prefix}{kind}", estimator, tested))
            scores += depth_scores(f"{prefix}{{}} {kind}", found, context.seed)
            details[f"{prefix}{kind}"] = {name: _plain(float(np.nanmean(values))) for name, values in found.items()}
    return Scores("depth", data.name, tuple(scores), details, tuple(figures))


def _opened(spec: str) -> DepthSet:
    # Openers know every protocol's sets, so they are asked for here and not at the head.
    from dinov2_core.evaluate.datasets import openers

    name, _, path = spec.rpartition("=")
    found = openers.load(name, Path(path))
    if not isinstance(found, DepthSet):
        todo = f"NAME=PATH with one of {', '.join(openers.BY_KIND['depth'])}"
        raise UserError(f"'{spec}' is no depth data", where="depth.also", todo=todo)
    return found


def depth_scores(name: str, found: dict[str, np.ndarray], seed: int) -> list[Score]:
    """The three metrics that tables show, ``name`` with the metric's in the place of ``{}``.

    Raises:
        UserError: no picture has a pixel that counts.
    """
    counted = ~np.isnan(found["rmse"])
    if not counted.any():
        raise UserError("no test picture has a known depth inside the crop", todo="check the crop and the unit")
    return [
        score(name.format(metric), found[metric][counted], seed=seed, share=metric != "rmse")
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
