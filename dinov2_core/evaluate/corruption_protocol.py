"""Robustness to corruptions: the clean linear head on corrupted test images, and the mean corruption error.

ImageNet-C's own files where they are given, with the published mCE; else pictures are corrupted here. Errors of those
are divided by a baseline network's where ``baseline`` has them; else their plain mean is given, and named so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dinov2_core.errors import UserError
from dinov2_core.evaluate.corruptions import SEVERITIES, corrupt
from dinov2_core.evaluate.datasets import imagenet
from dinov2_core.evaluate.datasets.labelled import LabelledSet, Picture, Split
from dinov2_core.evaluate.datasets.layout import json_file
from dinov2_core.evaluate.linear_protocol import LinearOptions, fit
from dinov2_core.evaluate.model import EvalModel
from dinov2_core.evaluate.probe_features import probe_features
from dinov2_core.evaluate.protocol import Context, Protocol, Score, Scores, score


@dataclass(frozen=True)
class CorruptionOptions(LinearOptions):
    """``names``: corruptions, all where empty. ``baseline``: a JSON file of corruption → mean error (0 to 1).

    ``folder``: ImageNet-C as it is distributed, on ``imagenet`` data; its baseline is AlexNet where none is given.
    """

    names: tuple[str, ...] = ()
    severities: tuple[int, ...] = (1, 2, 3, 4, 5)
    baseline: str = ""
    folder: str = ""


ALEXNET: Mapping[str, float] = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}
"""The errors on ImageNet-C, mean over severities, that the benchmark's authors divide by (arXiv 1903.12261)."""


@dataclass(frozen=True)
class CorruptedPicture(Picture):
    """A picture that is corrupted when it is read; ``seed`` is its number in the split."""

    corruption: str = ""
    severity: int = 1
    seed: int = 0

    def pixels(self) -> np.ndarray:
        return corrupt(super().pixels(), self.corruption, self.severity, seed=self.seed)

    def state(self) -> str:
        return f"{super().state()} {self.corruption} {self.severity} {self.seed}"


def corrupted(split: Split, name: str, severity: int) -> Split:
    """The split with every picture corrupted."""
    made = tuple(CorruptedPicture(p.name, p.data, name, severity, i) for i, p in enumerate(split.pictures))
    return Split(f"{split.name} {name} {severity}", made, split.labels)


def run_corruptions(model: EvalModel, data: LabelledSet, options: CorruptionOptions, context: Context) -> Scores:
    """The error of each corruption, mean over severities, and their mean; lower is better."""
    names = options.names or tuple(SEVERITIES)
    if unknown := [n for n in names if n not in SEVERITIES]:
        raise UserError(f"no corruption '{unknown[0]}'", where="corruptions", todo=f"one of {', '.join(SEVERITIES)}")
    baseline = json_file(Path(options.baseline)) if options.baseline else dict(ALEXNET) if options.folder else {}
    if baseline and (missing := [n for n in names if n not in baseline]):
        raise UserError(f"no error for {missing[0]}", where=options.baseline, todo="give one for every corruption")
    fields = {f.name: getattr(options, f.name) for f in dataclasses.fields(LinearOptions)}
    fitted = fit(model, data, LinearOptions(**fields), context)
    scores, relative = list[Score](), []
    for name in names:
        wrong = []
        for severity in options.severities:
            if options.folder:
                split = imagenet.corrupted(Path(options.folder), name, severity, data.test, data.classes)
            else:
                split = corrupted(data.test, name, severity)
            features = probe_features(model, split, context)
            inputs = [torch.from_numpy(np.array(x)) for x in (features.cls, features.mean)]
            wrong.append(fitted.grid.predict(*inputs)[fitted.chosen] != split.labels)
        each = np.mean(wrong, axis=0)
        scores.append(score(f"error {name}", each))
        relative.append(each / baseline.get(name, 1.0))
    label = "mCE" if baseline else "mean error, not normalised"
    made = "ImageNet-C's files" if options.folder else "corruptions made here"
    note = f"severities {', '.join(map(str, options.severities))}; {made}; lower is better"
    total = score(label, np.mean(relative, axis=0), note=note)
    return Scores("corruptions", data.name, (total, *scores), {"head": str(fitted.head)})


CORRUPTIONS = Protocol("corruptions", "robustness", "labelled", CorruptionOptions, run_corruptions)
