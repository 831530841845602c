"""Robustness: the linear head fitted to ImageNet-1k, scored on test sets that share its classes (paper, table 6).

Inference only. A prediction is taken among the classes that a set has, as its authors do for ImageNet-A and -R.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dinov2_core.evaluate.datasets import imagenet
from dinov2_core.evaluate.datasets.imagenet import Variant
from dinov2_core.evaluate.datasets.labelled import LabelledSet, Split
from dinov2_core.evaluate.datasets.layout import lines
from dinov2_core.evaluate.linear_protocol import LinearOptions, fit
from dinov2_core.evaluate.model import EvalModel
from dinov2_core.evaluate.probe_features import probe_features
from dinov2_core.evaluate.protocol import Context, NotApplicableError, Protocol, Scores, score


@dataclass(frozen=True)
class RobustnessOptions(LinearOptions):
    """Paths of the sets at hand; what is left empty is not scored. ``objectnet_names``: ImageNet's names, a line each.

    ``real`` is the file ``real.json``, the others are folders.
    """

    imagenet_a: str = ""
    imagenet_r: str = ""
    imagenet_sketch: str = ""
    imagenet_v2: str = ""
    real: str = ""
    objectnet: str = ""
    objectnet_names: str = ""


def variants(data: LabelledSet, options: RobustnessOptions) -> list[Variant]:
    """The sets that ``options`` names."""
    folders = ("imagenet_a", "imagenet_r", "imagenet_sketch", "imagenet_v2")
    given = {name.replace("_", "-"): Path(path) for name in folders if (path := getattr(options, name))}
    found = [imagenet.variant(path, name, data.classes) for name, path in given.items()]
    if options.real:
        found.append(imagenet.real(Path(options.real), data.test, data.classes))
    if options.objectnet:
        names = lines(Path(options.objectnet_names))
        found.append(imagenet.objectnet(Path(options.objectnet), data.classes, names))
    return found


def right(logits: Tensor, variant: Variant) -> NDArray[np.bool_]:
    """One value a scored image: ``logits [N, classes]``; images without an accepted class are left out."""
    allowed = torch.full((logits.shape[1],), float("-inf"))
    allowed[torch.from_numpy(variant.allowed)] = 0.0
    predicted = (logits + allowed).argmax(dim=1).numpy()
    scored = variant.accepted.any(axis=1)
    return np.asarray(variant.accepted[np.arange(len(predicted)), predicted][scored])


def run_robustness(model: EvalModel, data: LabelledSet, options: RobustnessOptions, context: Context) -> Scores:
    """One accuracy a set, of the head chosen on a hold-out of train."""
    sets = variants(data, options)
    if not sets:
        raise NotApplicableError("no robustness set is named", todo="set imagenet_a, imagenet_r, … in the settings")
    fields = {f.name: getattr(options, f.name) for f in dataclasses.fields(LinearOptions)}
    fitted = fit(model, data, LinearOptions(**fields), context)
    scores = []
    for one in sets:
        split = Split(one.name, one.pictures, np.zeros(len(one.pictures), np.int64))
        features = probe_features(model, split, context)
        both = (torch.from_numpy(np.array(x)) for x in (features.cls, features.mean))
        logits = fitted.grid.logits(fitted.head, *both)
        scores.append(score(one.name, right(logits, one), note=f"among {len(one.allowed)} classes"))
    return Scores("robustness", data.name, tuple(scores), {"head": str(fitted.head)})


ROBUSTNESS = Protocol("robustness", "robustness", "labelled", RobustnessOptions, run_robustness)
