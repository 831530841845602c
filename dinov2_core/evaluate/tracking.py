"""Video object segmentation by feature propagation (arXiv 2006.14613; settings of arXiv 2104.14294, section 4.2.2).

Nothing is trained: each patch takes the labels of the most similar patches nearby, in the first frame and the latest
ones. Not in the paper's tables; its successor reports it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from dinov2_core.evaluate.feature_maps import check_maps, feature_maps
from dinov2_core.evaluate.segmentation import patch_multiple
from dinov2_core.model.preprocessing import Preprocessing
from dinov2_core.model.vision_transformer import VisionTransformer


@dataclass(frozen=True)
class TrackingSettings:
    """``size``: shorter side in pixels; ``frames``: latest frames asked beside the first; ``radius``: how far away in
    patches an answer may lie; ``neighbours`` answers count, weighed by ``exp(cosine / temperature)``."""

    size: int = 480
    frames: int = 7
    radius: int = 12
    neighbours: int = 5
    temperature: float = 0.1


@torch.inference_mode()
def track(
    backbone: VisionTransformer,
    preprocessing: Preprocessing,
    frames: Sequence[NDArray[np.uint8]],
    first: NDArray[np.uint8],
    settings: TrackingSettings = TrackingSettings(),
) -> list[NDArray[np.uint8]]:
    """Follow the objects of the first frame.

    Args:
        frames: ``[H, W, 3]`` each, of one size.
        first: ``[H, W]`` object numbers of the first frame, 0 is background.

    Returns:
        Object numbers ``[H, W]`` of every frame, the first as given.
    """
    numbers = np.unique(np.concatenate([[0], np.unique(first)]))
    shares = torch.from_numpy(first[None] == numbers[:, None, None]).float()
    maps = _features(backbone, preprocessing, frames[0], settings.size)
    start = (maps, F.adaptive_avg_pool2d(shares[None], (maps.shape[-2], maps.shape[-1]))[0])
    latest: deque[tuple[Tensor, Tensor]] = deque(maxlen=settings.frames)
    found = [first.copy()]
    for frame in frames[1:]:
        maps = _features(backbone, preprocessing, frame, settings.size)
        labels = propagate(maps, [start, *latest], settings)
        latest.append((maps, labels))
        large = F.interpolate(labels[None], size=first.shape, mode="bilinear", align_corners=False)[0]
        # Small objects never reach a share of 1 after pooling: each is judged against its own range.
        low, high = large.amin(dim=(1, 2), keepdim=True), large.amax(dim=(1, 2), keepdim=True)
        scaled = torch.where(high > 0, (large - low) / (high - low).clamp(min=1e-6), torch.zeros_like(large))
        found.append(numbers[scaled.argmax(dim=0).numpy()].astype(np.uint8))
    return found


def propagate(maps: Tensor, context: Sequence[tuple[Tensor, Tensor]], settings: TrackingSettings) -> Tensor:
    """Labels of a frame from frames whose labels are known.

    Args:
        maps: ``[D, h, w]``, of unit length along D.
        context: pairs of such maps and labels ``[K, h, w]``.

    Returns:
        ``[K, h, w]``; sums to 1 over K where the context's do.
    """
    height, width = maps.shape[-2:]
    near = neighbourhood(height, width, settings.radius)
    query = maps.flatten(1).T
    weights = torch.cat([(query @ other.flatten(1)).masked_fill(~near, float("-inf")) for other, _ in context], dim=1)
    labels = torch.cat([known.flatten(1) for _, known in context], dim=1)
    best, index = weights.topk(min(settings.neighbours, weights.shape[1]), dim=1)
    share = (best / settings.temperature).softmax(dim=1)
    return (labels[:, index] * share).sum(dim=-1).view(-1, height, width)


def neighbourhood(height: int, width: int, radius: int) -> Tensor:
    """``[h·w, h·w]`` bool: True where two patches lie at most ``radius`` rows and columns apart; 0 = no limit."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    y, x = y.flatten(), x.flatten()
    if not radius:
        return torch.ones(height * width, height * width, dtype=torch.bool)
    return ((y[:, None] - y).abs() <= radius) & ((x[:, None] - x).abs() <= radius)


def _features(
    backbone: VisionTransformer, preprocessing: Preprocessing, pixels: NDArray[np.uint8], size: int
) -> Tensor:
    height, width = pixels.shape[:2]
    patch, factor = backbone.config.patch, size / min(height, width)
    shape = (patch_multiple(round(height * factor), patch), patch_multiple(round(width * factor), patch))
    image = preprocessing.normalize(torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None])
    image = F.interpolate(image, size=shape, mode="bilinear", align_corners=False, antialias=factor < 1)
    image = image.to(next(backbone.parameters()).device)
    maps = feature_maps(backbone, image, (backbone.config.depth - 1,))[0][0]
    check_maps(maps, where="a frame")
    return F.normalize(maps[0].float(), dim=0).cpu()
