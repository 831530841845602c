"""Features of clips: a frozen image model on evenly spaced frames (paper, section 7.2).

Decoding is in ``frames.py``; the linear probe is the classification protocols'.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from dinov2_core.evaluate import frames
from dinov2_core.evaluate.model import EvalModel
from dinov2_core.progress import track


def join(features: Tensor, how: Literal["average", "concatenate"]) -> Tensor:
    """Frame features ``[N, F, D]`` → ``[N, D]`` (average) or ``[N, F · D]``, in order of time."""
    return features.mean(dim=1) if how == "average" else features.flatten(1)


@torch.inference_mode()
def clip_features(model: EvalModel, paths: Sequence[Path], *, count: int = 8, label: str = "clips") -> Tensor:
    """Class tokens of ``count`` evenly spaced frames of each video.

    Returns:
        ``[N, count, D]`` float32 on the CPU.

    Raises:
        UserError: a video cannot be decoded.
    """
    device = next(model.backbone.parameters()).device
    rows = []
    for path in track(paths, label):
        images = torch.stack([torch.from_numpy(model.square(frame)) for frame in frames.read(path, count)])
        rows.append(model.backbone(model.preprocessing.normalize(images).to(device)).cls.float().cpu())
    return torch.stack(rows)
