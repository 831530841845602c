"""What dense heads make of a few test pictures, beside the picture and the truth."""

from __future__ import annotations

import numpy as np

from dinov2_core.evaluate import pictures
from dinov2_core.evaluate.datasets.dense import DepthSet, SegmentationSet
from dinov2_core.evaluate.depth import DepthEstimator
from dinov2_core.evaluate.figures import Figure
from dinov2_core.evaluate.segmentation import Segmenter

SHOWN = 4
_SIDE = 160


def segmentation_figure(name: str, segmenter: Segmenter, data: SegmentationSet) -> Figure:
    """A row a picture: itself, the true classes over it, the predicted ones over it."""
    rows = []
    for pair in data.test[:: max(len(data.test) // SHOWN, 1)][:SHOWN]:
        pixels, truth = data.read(pair)
        both = (pictures.segmentation_overlay(pixels, c, len(data.classes)) for c in (truth, segmenter.predict(pixels)))
        rows.append(pictures.row([pixels, *both], side=_SIDE))
    return Figure(name, f"{name}: a picture, its true classes, the predicted ones", pictures.stack(rows))


def depth_figure(name: str, estimator: DepthEstimator, data: DepthSet) -> Figure:
    """A row a picture: itself, the true depth, the predicted one, on one scale; unknown depths are grey."""
    rows = []
    for pair in data.test[:: max(len(data.test) // SHOWN, 1)][:SHOWN]:
        pixels, truth = data.read(pair)
        known = (truth > data.low) & (truth < data.high)
        scale = {"low": float(truth[known].min()), "high": float(truth[known].max())}
        true = np.where(known[..., None], pictures.ramp(truth, **scale), np.uint8(128))
        found = pictures.ramp(estimator.predict(pixels), **scale)
        rows.append(pictures.row([pixels, true, found], side=_SIDE))
    caption = f"depth, {name}: a picture, its true depth from near (blue) to far (red), the predicted one"
    return Figure(f"depth {name}", caption, pictures.stack(rows))
