"""Monocular depth on frozen features: "lin. 1", "lin. 4" and "DPT" of the paper (section 7.4), for any backbone.

lin. 1: the last block, normed; lin. 4: four blocks, not normed; both with class tokens beside the patches, depth as a
mean over bins. DPT: four blocks through a decoder. Layouts on disk belong in ``datasets/depth.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dinov2_core.errors import UserError
from dinov2_core.evaluate.augment_dense import cropped, squared
from dinov2_core.evaluate.datasets.dense import DepthSet
from dinov2_core.evaluate.dense_heads import BinsHead
from dinov2_core.evaluate.dense_training import Schedule, train_head
from dinov2_core.evaluate.depth_losses import gradient_loss, sig_loss
from dinov2_core.evaluate.depth_scores import METRICS, image_scores
from dinov2_core.evaluate.dpt import DptHead
from dinov2_core.evaluate.feature_maps import check_maps, feature_maps, four_layers, join, last_layers, resize
from dinov2_core.evaluate.segmentation import patch_multiple
from dinov2_core.evaluate.shares import agree, rows, spread
from dinov2_core.model.preprocessing import Preprocessing
from dinov2_core.model.vision_transformer import VisionTransformer

Kind = Literal["linear", "linear4", "dpt"]
Layers = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class DepthSettings:
    """``size``: side of training crops, and the shorter side of tested pictures; rounded to the patch size.

    ``augment``: random crops and mirrors, a backbone pass a step; without it whole squares whose features are computed
    once. ``mirror``: the mean with the mirror image's prediction when testing. ``gradient``: weight of the
    gradient loss (DPT only).
    """

    kind: Kind = "linear"
    size: int = 448
    augment: bool = True
    mirror: bool = True
    gradient: float = 0.5
    bins: int = 256
    channels: int = 256
    schedule: Schedule = field(
        default_factory=lambda: Schedule(38_400, 16, 3e-4, weight_decay=1e-4, warmup=12_800, clip=35.0)
    )


@dataclass
class DepthEstimator:
    """A backbone, frozen, and a trained head."""

    backbone: VisionTransformer
    preprocessing: Preprocessing
    head: nn.Module
    settings: DepthSettings
    low: float
    high: float

    @property
    def side(self) -> int:
        """``size`` rounded to a multiple of the patch size."""
        return patch_multiple(self.settings.size, self.backbone.config.patch)

    @torch.no_grad()
    def layers(self, images: Tensor) -> Layers:
        """What the head reads, of normalised images."""
        depth, one = self.backbone.config.depth, self.settings.kind == "linear"
        wanted = last_layers(depth, 1) if one else four_layers(depth)
        return [(p.float(), c.float()) for p, c in feature_maps(self.backbone, images, wanted, norm=one)]

    def metres(self, layers: Layers) -> Tensor:
        """``[B, 1, …]`` metres at the head's own size."""
        found: Tensor = self.head(layers if self.settings.kind == "dpt" else join(layers, cls=True))
        return found.clamp(self.low, self.high) if not self.head.training else found

    @torch.inference_mode()
    def predict(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """``[H, W, 3]`` uint8 → metres ``[H, W]``."""
        height, width = pixels.shape[:2]
        patch = self.backbone.config.patch
        factor = self.side / min(height, width)
        shape = (patch_multiple(round(height * factor), patch), patch_multiple(round(width * factor), patch))
        image = self.preprocessing.normalize(torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None])
        scaled = nn.functional.interpolate(image, shape, mode="bilinear", align_corners=False, antialias=factor < 1)
        scaled = scaled.to(next(self.backbone.parameters()).device)
        found = self.metres(self.layers(scaled))
        if self.settings.mirror:
            found = (found + self.metres(self.layers(scaled.flip(-1))).flip(-1)) / 2
        return resize(found, height, width)[0, 0].cpu().numpy()


def train_depth(
    backbone: VisionTransformer,
    preprocessing: Preprocessing,
    data: DepthSet,
    settings: DepthSettings,
    processes: int = 1,
) -> DepthEstimator:
    """Train the head on ``data.train``; the backbone's weights stay as they are. Features are computed in shares.

    Raises:
        UserError: a picture or a target cannot be used (see :meth:`DepthSet.read`), or the head has died.
    """
    torch.manual_seed(settings.schedule.seed)
    device, dim = next(backbone.parameters()).device, backbone.config.dim
    head: nn.Module
    if settings.kind == "dpt":
        head = DptHead(dim, low=data.low, channels=settings.channels)
    else:
        channels = 2 * dim * (1 if settings.kind == "linear" else 4)
        head = BinsHead(channels, low=data.low, high=data.high, bins=settings.bins)
    made = DepthEstimator(backbone.eval(), preprocessing, head.to(device), settings, data.low, data.high)
    batch = _augmented(made, data) if settings.augment else _stored(made, data, processes)

    def loss(indices: list[int]) -> Tensor:
        layers, truth = batch(indices)
        truth = truth[:, None].to(device)
        known = (truth > data.low) & (truth < data.high)
        found = resize(made.metres(layers), truth.shape[-2], truth.shape[-1])
        total = sig_loss(found, truth, known)
        if settings.kind == "dpt" and settings.gradient:
            total = total + settings.gradient * gradient_loss(found, truth, known)
        return total

    train_head(head, len(data.train), loss, settings.schedule, label=f"depth head ({settings.kind}), {data.name}")
    agree(head)
    layers, _ = batch([0])
    with torch.no_grad():
        dead = bool((made.metres(layers) <= data.low).all())
    if dead:
        # The last ReLU of DPT passes no gradient once it gives nothing anywhere.
        todo = "lower the schedule's lr or lengthen its warm-up: such a score says nothing of the features"
        raise UserError(f"the {settings.kind} head gives the smallest depth everywhere", where=data.name, todo=todo)
    return made


Batch = Callable[[list[int]], tuple[Layers, Tensor]]


def _augmented(made: DepthEstimator, data: DepthSet) -> Batch:
    rng = np.random.default_rng(made.settings.schedule.seed)
    device = next(made.backbone.parameters()).device

    def batch(indices: list[int]) -> tuple[Layers, Tensor]:
        # Enlarging a picture makes things look nearer than they are, so crops are of one scale.
        drawn = [cropped(*data.read(data.train[i]), made.side, rng, fill=0, scales=(1.0, 1.0)) for i in indices]
        images = made.preprocessing.normalize(torch.stack([image for image, _ in drawn])).to(device)
        flat = rows(lambda part: [tensor for layer in made.layers(part) for tensor in layer], images)
        return list(zip(flat[::2], flat[1::2], strict=True)), torch.stack([target for _, target in drawn])

    return batch


def _stored(made: DepthEstimator, data: DepthSet, processes: int) -> Batch:
    device = next(made.backbone.parameters()).device
    squares = spread(partial(_square, made, data), len(data.train), processes, label=f"features, {data.name}")
    layers = [
        tuple(torch.from_numpy(np.concatenate(parts)).to(device) for parts in zip(*of_layer, strict=True))
        for of_layer in zip(*(found for found, _ in squares), strict=True)
    ]
    truth = torch.from_numpy(np.stack([target for _, target in squares]))
    return lambda indices: ([(p[indices], c[indices]) for p, c in layers], truth[indices])


def _square(
    made: DepthEstimator, data: DepthSet, number: int
) -> tuple[list[tuple[NDArray[np.float32], ...]], NDArray[np.float32]]:
    image, target = squared(*data.read(data.train[number]), made.side)
    normal = made.preprocessing.normalize(image[None]).to(next(made.backbone.parameters()).device)
    layers = made.layers(normal)
    for maps, _ in layers:
        check_maps(maps, where=str(data.train[number].image))
    return [tuple(tensor.cpu().numpy() for tensor in layer) for layer in layers], target.numpy()


def score(estimator: DepthEstimator, data: DepthSet, processes: int = 1) -> dict[str, NDArray[np.float64]]:
    """Each metric, image by image (``[test images]``); pictures without a counted pixel in the crop give NaN."""
    found = spread(partial(_scored, estimator, data), len(data.test), processes, label=f"depth, {data.name}")
    return {name: np.array([row[name] for row in found]) for name in METRICS}


def _scored(estimator: DepthEstimator, data: DepthSet, number: int) -> dict[str, float]:
    pixels, truth = data.read(data.test[number])
    metres = estimator.predict(pixels)
    check_maps(torch.from_numpy(metres), where=str(data.test[number].image))
    found = image_scores(metres, truth, low=data.low, high=data.high, crop=data.crop)
    return found or dict.fromkeys(METRICS, float("nan"))
