"""The protocols of instance retrieval: revisited Oxford and Paris, and sets with an instance number a picture.

Class tokens, ranked by cosine (paper, section 7.3). The arithmetic is in ``retrieval.py``.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dinov2_core.evaluate import retrieval
from dinov2_core.evaluate.answer_figures import neighbour_figure
from dinov2_core.evaluate.datasets.labelled import Picture, Split
from dinov2_core.evaluate.datasets.layout import rgb
from dinov2_core.evaluate.datasets.retrieval import InstanceSet, RevisitedSet
from dinov2_core.evaluate.model import EvalModel
from dinov2_core.evaluate.probe_features import probe_features
from dinov2_core.evaluate.protocol import Context, Protocol, Score, Scores, score

_SHOWN = 6


@dataclass(frozen=True)
class RevisitedOptions:
    """``crop_queries``: search with the query's box, as the benchmark defines it; the paper does not say."""

    crop_queries: bool = True


@dataclass(frozen=True)
class InstanceOptions:
    """Nothing to set: the most similar picture answers, its cosine is the confidence."""


def _features(model: EvalModel, name: str, pictures: Sequence[Picture], context: Context) -> Tensor:
    split = Split(name, tuple(pictures), np.zeros(len(pictures), np.int64))
    return torch.from_numpy(np.array(probe_features(model, split, context).last))


def _files(paths: Sequence[Path]) -> list[Picture]:
    return [Picture(str(path)) for path in paths]


def _cut(data: RevisitedSet, number: int) -> Picture:
    out = io.BytesIO()
    Image.fromarray(data.query(number, crop=True)).save(out, "PNG")
    return Picture(f"{data.queries[number]} {data.boxes[number]}", out.getvalue())


def run_revisited(model: EvalModel, data: RevisitedSet, options: RevisitedOptions, context: Context) -> Scores:
    """mAP of the Medium and the Hard setup; the interval is over queries."""
    gallery = _features(model, f"{data.name} gallery", _files(data.gallery), context)
    asked = _files(data.queries)
    if options.crop_queries:
        asked = [_cut(data, number) for number in range(len(data.queries))]
    order = retrieval.rank(gallery, _features(model, f"{data.name} queries", asked, context))
    scores = []
    for setup in ("medium", "hard"):
        each = retrieval.revisited_ap(order, data.truth, setup)  # type: ignore[arg-type]
        known = each[~np.isnan(each)]
        if len(known):
            scores.append(score(f"mAP {setup}", known, seed=context.seed))
    positives = [np.array([*t["easy"], *t["hard"]], np.int64) for t in data.truth]
    right = np.stack([np.isin(row, p) for row, p in zip(order[:, :_SHOWN], positives, strict=True)])
    drawn = neighbour_figure(
        "revisited", lambda q: asked[q].pixels(), lambda i: rgb(data.gallery[i]), order[:, :_SHOWN], right
    )
    return Scores("revisited", data.name, tuple(scores), {"crop_queries": options.crop_queries}, (drawn,))


def run_instances(model: EvalModel, data: InstanceSet, options: InstanceOptions, context: Context) -> Scores:
    """mAP, accuracy, and GAP with (``gap``) and without (``gap-``) the queries that show nothing known."""
    gallery = _features(model, f"{data.name} gallery", _files(data.gallery), context)
    queries = _features(model, f"{data.name} queries", _files(data.queries), context)
    labels, truth = np.array(data.gallery_instances), np.array(data.query_instances)
    predicted, confidence = retrieval.nearest_answer(gallery, torch.from_numpy(labels), queries)
    known = np.flatnonzero(truth >= 0)
    found = retrieval.met_scores(predicted, confidence, truth)
    positives = [np.flatnonzero(labels == truth[q]) for q in known]
    order = retrieval.rank(gallery, queries[known])
    each = retrieval.average_precision(order, positives)
    scores = (
        score("mAP", each, seed=context.seed),
        score("accuracy", predicted[known] == truth[known], seed=context.seed),
        _gap("gap", found.gap, predicted, confidence, truth, context.seed),
        _gap("gap-", found.gap_minus, predicted[known], confidence[known], truth[known], context.seed),
    )
    drawn = neighbour_figure(
        "instances",
        lambda q: rgb(data.queries[known[q]]),
        lambda i: rgb(data.gallery[i]),
        order[:, :_SHOWN],
        labels[order[:, :_SHOWN]] == truth[known][:, None],
    )
    return Scores("instances", data.name, scores, figures=(drawn,))


def _gap(name: str, value: float, predicted: np.ndarray, confidence: np.ndarray, truth: np.ndarray, seed: int) -> Score:
    """GAP is no mean over queries, so queries are drawn and GAP is computed anew."""
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(300):
        rows = rng.integers(0, len(truth), len(truth))
        if (truth[rows] >= 0).any():
            drawn.append(retrieval.gap(predicted[rows], confidence[rows], truth[rows]))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Score(name, value, float(low), float(high), len(truth))


REVISITED = Protocol("revisited", "instance retrieval", "revisited", RevisitedOptions, run_revisited)
INSTANCES = Protocol("instances", "instance retrieval", "instances", InstanceOptions, run_instances)
