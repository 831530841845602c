"""The protocols on videos: action recognition with a linear probe, and object tracking without training.

Decoding is in ``frames.py``, propagation in ``tracking.py``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from dinov2_core import config
from dinov2_core.evaluate import pictures, tracking, video_features
from dinov2_core.evaluate.cache import check_finite
from dinov2_core.evaluate.datasets.davis import TrackingSet
from dinov2_core.evaluate.datasets.video import Clip, VideoSet
from dinov2_core.evaluate.extraction import extracted
from dinov2_core.evaluate.figures import Figure
from dinov2_core.evaluate.linear import linear_probe
from dinov2_core.evaluate.model import EvalModel
from dinov2_core.evaluate.protocol import Context, Protocol, Scores, score
from dinov2_core.evaluate.shares import spread
from dinov2_core.evaluate.tracking_scores import sequence_scores

_STRIPS = 3


@dataclass(frozen=True)
class VideoOptions:
    """``frames`` a clip, evenly spaced; ``grid``: inverse strengths of the probe, chosen on a hold-out of train."""

    frames: int = 8
    grid: tuple[float, ...] = (0.001, 0.01, 0.1, 1.0)


def _features(model: EvalModel, name: str, clips: Sequence[Clip], count: int, context: Context) -> np.ndarray:
    """``[N, count, D]``, through the cache."""
    state = hashlib.sha256()
    for clip in clips:
        stat = clip.path.stat()
        state.update(f"{clip.path}\0{stat.st_size} {stat.st_mtime_ns}\n".encode())
    preprocessing = {"plain": config.to_plain(model.preprocessing), "resize": model.resize}
    key = {"weights": model.digest, "preprocessing": preprocessing, "images": state.hexdigest(), "kind": f"clip{count}"}
    shapes = {"cls": (len(clips), count, model.backbone.config.dim)}
    compute = partial(_compute, model, tuple(clips), count, f"{name} clips")
    return np.array(extracted(context, key, shapes, compute, label=name)["cls"])


def _compute(
    model: EvalModel, clips: tuple[Clip, ...], count: int, label: str, start: int, stop: int
) -> dict[str, np.ndarray]:
    paths = [clip.path for clip in clips[start:stop]]
    found = video_features.clip_features(model, paths, count=count, label=label).numpy()
    check_finite(found, where=f"{model.name} on {label}", names=[str(path) for path in paths])
    return {"cls": found}


def run_video(model: EvalModel, data: VideoSet, options: VideoOptions, context: Context) -> Scores:
    """Top-1 accuracy of a linear probe on joined frame features."""
    sides = []
    for name, clips in (("train", data.train), ("test", data.test)):
        frames = torch.from_numpy(_features(model, f"{data.name} {name}", clips, options.frames, context))
        sides.append(video_features.join(frames, data.join).numpy())
    train, test = (np.array([clip.label for clip in clips]) for clips in (data.train, data.test))
    probe = linear_probe(sides[0], train, sides[1], grid=options.grid, seed=context.seed)
    details = {"join": data.join, "c": probe.c, "frames": options.frames}
    return Scores("video", data.name, (score("accuracy", probe.predictions == test, seed=context.seed),), details)


def run_tracking(model: EvalModel, data: TrackingSet, options: tracking.TrackingSettings, context: Context) -> Scores:
    """J, F and their mean, over objects."""
    rows: list[tuple[float, float]] = []
    details = {}
    follow = partial(_followed, model, data, options)
    found = spread(follow, len(data.sequences), context.processes, label=data.name)
    for sequence, (scores, _) in zip(data.sequences, found, strict=True):
        details[sequence.name] = {str(n): {"J": j, "F": f} for n, (j, f) in scores.items()}
        rows += scores.values()
    table = np.array(rows)
    named = (("J&F", table.mean(axis=1)), ("J", table[:, 0]), ("F", table[:, 1]))
    strips = [strip for _, strip in found if strip is not None]
    caption = "objects of the first frame, followed: frames evenly chosen"
    drawn = (Figure("tracking", caption, pictures.stack(strips)),)
    return Scores("tracking", data.name, tuple(score(n, v, seed=context.seed) for n, v in named), details, drawn)


def _followed(
    model: EvalModel, data: TrackingSet, options: tracking.TrackingSettings, number: int
) -> tuple[Mapping[int, tuple[float, float]], np.ndarray | None]:
    """J and F by object, and for the first sequences a strip of frames with what was found."""
    frames, masks = data.sequences[number].read()
    found = tracking.track(model.backbone, model.preprocessing, frames, masks[0], options)
    scores = sequence_scores(found, masks, [int(n) for n in np.unique(masks[0]) if n])
    if number >= _STRIPS:
        return scores, None
    count = int(masks[0].max()) + 1
    chosen = np.linspace(0, len(frames) - 1, min(5, len(frames))).round().astype(int)
    # Background is shown as it is.
    shown = [np.where(found[i] > 0, found[i], 255).astype(np.uint8) for i in chosen]
    over = [pictures.segmentation_overlay(frames[i], mask, count) for i, mask in zip(chosen, shown, strict=True)]
    return scores, pictures.row(over, side=160)


VIDEO = Protocol("video", "video", "video", VideoOptions, run_video)
TRACKING = Protocol("tracking", "beyond the paper", "tracking", tracking.TrackingSettings, run_tracking)
