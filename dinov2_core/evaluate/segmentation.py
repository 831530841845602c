"""Semantic segmentation on frozen features: "linear" and "+ms" of the paper (section 7.4), for any backbone.

Linear: the last block's patches, one scale. +ms: the last four blocks, 640 pixels, several scales. Layouts on disk
belong in ``datasets/segmentation.py``, scores in ``segmentation_scores.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from dinov2_core.evaluate.augment_dense import cropped, squared
from dinov2_core.evaluate.datasets.dense import IGNORE, Pair, SegmentationSet
from dinov2_core.evaluate.dense_heads import SegmentationHead
from dinov2_core.evaluate.dense_training import Schedule, train_head
from dinov2_core.evaluate.feature_maps import feature_maps, join, last_layers, resize
from dinov2_core.evaluate.segmentation_scores import Counts
from dinov2_core.evaluate.windows import multi_scale
from dinov2_core.model.preprocessing import Preprocessing
from dinov2_core.model.vision_transformer import VisionTransformer
from dinov2_core.progress import track


@dataclass(frozen=True)
class SegmentationSettings:
    """``size``: shorter side at scale 1, and the side of windows and training crops; rounded to the patch size.

    ``augment``: random scale, crop and mirror, a backbone pass a step. Without it each training picture is one whole
    square whose features are computed once: much faster, somewhat worse.
    """

    size: int = 512
    layers: int = 1
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    overlap: float = 1 / 3
    augment: bool = True
    schedule: Schedule = field(default_factory=Schedule)


LINEAR = SegmentationSettings()
MULTI_SCALE = replace(LINEAR, size=640, layers=4, scales=(1.0, 1.32, 1.73, 2.28, 3.0), flip=True)
"""Up to five ratios, as in the public reference's notebook."""


@dataclass
class Segmenter:
    """A backbone, frozen, and a trained head."""

    backbone: VisionTransformer
    preprocessing: Preprocessing
    head: SegmentationHead
    settings: SegmentationSettings

    @property
    def window(self) -> int:
        """Side of a window: ``size`` rounded to a multiple of the patch size."""
        return patch_multiple(self.settings.size, self.backbone.config.patch)

    @torch.inference_mode()
    def logits(self, images: Tensor) -> Tensor:
        """Normalised ``[B, 3, h, w] → [B, K, h, w]``."""
        found = self.head(features(self.backbone, images, self.settings.layers))
        return resize(found, images.shape[-2], images.shape[-1])

    def predict(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """``[H, W, 3]`` uint8 → the likeliest class of each pixel ``[H, W]``."""
        image = self.preprocessing.normalize(torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None])
        shares = multi_scale(
            self.logits,
            image.to(next(self.backbone.parameters()).device),
            size=self.window,
            window=self.window,
            stride=max(round(self.window * (1 - self.settings.overlap)), 1),
            patch=self.backbone.config.patch,
            scales=self.settings.scales,
            flip=self.settings.flip,
        )
        return shares[0].argmax(dim=0).to(torch.uint8).cpu().numpy()


def patch_multiple(size: int, patch: int) -> int:
    """``size`` rounded to a multiple of ``patch``, at least one."""
    return max(round(size / patch), 1) * patch


@torch.no_grad()
def features(backbone: VisionTransformer, images: Tensor, layers: int) -> Tensor:
    """The joined patch map of the last ``layers`` blocks: ``[B, layers · D, h, w]`` float32."""
    return join(feature_maps(backbone, images, last_layers(backbone.config.depth, layers)), cls=False).float()


def train_segmenter(
    backbone: VisionTransformer, preprocessing: Preprocessing, data: SegmentationSet, settings: SegmentationSettings
) -> Segmenter:
    """Train the head on ``data.train``; the backbone's weights stay as they are.

    Raises:
        UserError: a picture or a target cannot be used (see :meth:`SegmentationSet.read`).
    """
    torch.manual_seed(settings.schedule.seed)
    dim = backbone.config.dim * min(settings.layers, backbone.config.depth)
    device = next(backbone.parameters()).device
    head = SegmentationHead(dim, len(data.classes)).to(device)
    made = Segmenter(backbone.eval(), preprocessing, head, settings)
    batch = _augmented(made, data) if settings.augment else _stored(made, data)

    def loss(indices: list[int]) -> Tensor:
        maps, targets = batch(indices)
        logits = resize(head(maps), targets.shape[-2], targets.shape[-1])
        wanted = targets.long().to(device)
        # A batch of ignored pixels only has no mean.
        total = F.cross_entropy(logits, wanted, ignore_index=IGNORE, reduction="sum")
        return total / (wanted != IGNORE).sum().clamp(min=1)

    train_head(head, len(data.train), loss, settings.schedule, label=f"segmentation head, {data.name}")
    return made


Batch = Callable[[list[int]], tuple[Tensor, Tensor]]


def _augmented(made: Segmenter, data: SegmentationSet) -> Batch:
    rng = np.random.default_rng(made.settings.schedule.seed)
    device = next(made.backbone.parameters()).device

    def batch(indices: list[int]) -> tuple[Tensor, Tensor]:
        drawn = [cropped(*data.read(data.train[i]), made.window, rng, fill=IGNORE) for i in indices]
        images = made.preprocessing.normalize(torch.stack([image for image, _ in drawn])).to(device)
        return features(made.backbone, images, made.settings.layers), torch.stack([target for _, target in drawn])

    return batch


def _stored(made: Segmenter, data: SegmentationSet) -> Batch:
    device = next(made.backbone.parameters()).device
    maps, targets = [], []
    for pair in track(data.train, f"features, {data.name}"):
        image, target = squared(*data.read(pair), made.window)
        normal = made.preprocessing.normalize(image[None]).to(device)
        maps.append(features(made.backbone, normal, made.settings.layers)[0])
        targets.append(target)
    all_maps, all_targets = torch.stack(maps), torch.stack(targets)
    return lambda indices: (all_maps[indices], all_targets[indices])


def score(segmenter: Segmenter, data: SegmentationSet, pairs: tuple[Pair, ...] | None = None) -> Counts:
    """Predict ``pairs`` (all of ``data.test``) at their own size and count."""
    counts = Counts(len(data.classes))
    for pair in track(data.test if pairs is None else pairs, f"segmentation, {data.name}"):
        pixels, truth = data.read(pair)
        counts.add(segmenter.predict(pixels), truth, ignore=IGNORE)
    return counts
