"""Semantic segmentation on frozen features: "linear" and "+ms" of the paper (section 7.4), for any backbone.

Linear: the last block's patches, one scale. +ms: the last four blocks, 640 pixels, several scales. Layouts on disk
belong in ``datasets/segmentation.py``, scores in ``segmentation_scores.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from dinov2_core.errors import UserError
from dinov2_core.evaluate.augment_dense import cropped, squared
from dinov2_core.evaluate.datasets.dense import IGNORE, Pair, SegmentationSet
from dinov2_core.evaluate.dense_heads import SegmentationHead
from dinov2_core.evaluate.dense_training import Schedule, train_head
from dinov2_core.evaluate.feature_maps import check_maps, feature_maps, join, last_layers, resize
from dinov2_core.evaluate.segmentation_scores import Counts, merge
from dinov2_core.evaluate.shares import agree, rows, spread
from dinov2_core.evaluate.windows import multi_scale
from dinov2_core.model.preprocessing import Preprocessing
from dinov2_core.model.vision_transformer import VisionTransformer


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

    def predict(self, pixels: NDArray[np.uint8], *, name: str = "picture") -> NDArray[np.uint8]:
        """``[H, W, 3]`` uint8 → the likeliest class of each pixel ``[H, W]``; UserError where it is not finite."""
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
        # The largest of numbers that are none is some class.
        check_maps(shares, where=name)
        return shares[0].argmax(dim=0).to(torch.uint8).cpu().numpy()


def patch_multiple(size: int, patch: int) -> int:
    """``size`` rounded to a multiple of ``patch``, at least one."""
    return max(round(size / patch), 1) * patch


@torch.no_grad()
def features(backbone: VisionTransformer, images: Tensor, layers: int) -> Tensor:
    """The joined patch map of the last ``layers`` blocks: ``[B, layers · D, h, w]`` float32."""
    return join(feature_maps(backbone, images, last_layers(backbone.config.depth, layers)), cls=False).float()


def train_segmenter(
    backbone: VisionTransformer,
    preprocessing: Preprocessing,
    data: SegmentationSet,
    settings: SegmentationSettings,
    processes: int = 1,
) -> Segmenter:
    """Train the head on ``data.train``; the backbone's weights stay as they are.

    Features are computed in shares: of each batch by the ranks that this program may be one of, of stored pictures
    also by local ``processes``.

    Raises:
        UserError: a picture or a target cannot be used (see :meth:`SegmentationSet.read`), or a class has no pixel to
            learn from (see :func:`check_classes`).
    """
    check_classes(data, processes)
    torch.manual_seed(settings.schedule.seed)
    dim = backbone.config.dim * min(settings.layers, backbone.config.depth)
    device = next(backbone.parameters()).device
    head = SegmentationHead(dim, len(data.classes)).to(device)
    made = Segmenter(backbone.eval(), preprocessing, head, settings)
    batch = _augmented(made, data) if settings.augment else _stored(made, data, processes)

    def loss(indices: list[int]) -> Tensor:
        maps, targets = batch(indices)
        logits = resize(head(maps), targets.shape[-2], targets.shape[-1])
        wanted = targets.long().to(device)
        # A batch of ignored pixels only has no mean.
        total = F.cross_entropy(logits, wanted, ignore_index=IGNORE, reduction="sum")
        return total / (wanted != IGNORE).sum().clamp(min=1)

    train_head(head, len(data.train), loss, settings.schedule, label=f"segmentation head, {data.name}")
    agree(head)
    return made


def check_classes(data: SegmentationSet, processes: int = 1) -> None:
    """Read all targets: a class that only the test split has cannot be learnt, and its IoU would be 0 in silence.

    Raises:
        UserError: such a class with the first file that has it, or a target that cannot be used.
    """
    pairs = data.train + data.test
    found = spread(partial(_present, data, pairs), len(pairs), processes, label=f"classes, {data.name}")
    learnt = set().union(*found[: len(data.train)])
    for pair, classes in zip(data.test, found[len(data.train) :], strict=True):
        for unknown in sorted(classes - learnt):
            raise UserError(
                f"class '{data.classes[unknown]}' has no pixel in the train split",
                where=str(pair.target),
                todo="add a train picture that has it, or take the class off the list and give it an ignored label",
            )


def _present(data: SegmentationSet, pairs: tuple[Pair, ...], number: int) -> set[int]:
    return set(np.unique(data.classes_of(pairs[number])).tolist()) - {IGNORE}


Batch = Callable[[list[int]], tuple[Tensor, Tensor]]


def _augmented(made: Segmenter, data: SegmentationSet) -> Batch:
    rng = np.random.default_rng(made.settings.schedule.seed)
    device = next(made.backbone.parameters()).device

    def batch(indices: list[int]) -> tuple[Tensor, Tensor]:
        drawn = [cropped(*data.read(data.train[i]), made.window, rng, fill=IGNORE) for i in indices]
        images = made.preprocessing.normalize(torch.stack([image for image, _ in drawn])).to(device)
        maps = rows(lambda part: [features(made.backbone, part, made.settings.layers)], images)[0]
        return maps, torch.stack([target for _, target in drawn])

    return batch


def _stored(made: Segmenter, data: SegmentationSet, processes: int) -> Batch:
    device = next(made.backbone.parameters()).device
    squares = spread(partial(_square, made, data), len(data.train), processes, label=f"features, {data.name}")
    all_maps, all_targets = (torch.from_numpy(np.stack(parts)) for parts in zip(*squares, strict=True))
    return lambda indices: (all_maps[indices].to(device), all_targets[indices])


def _square(made: Segmenter, data: SegmentationSet, number: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    image, target = squared(*data.read(data.train[number]), made.window)
    normal = made.preprocessing.normalize(image[None]).to(next(made.backbone.parameters()).device)
    maps = features(made.backbone, normal, made.settings.layers)[0].cpu()
    check_maps(maps, where=str(data.train[number].image))
    return maps.numpy(), target.numpy()


def score(segmenter: Segmenter, data: SegmentationSet, processes: int = 1) -> Counts:
    """Predict all of ``data.test`` at its own size and count, in shares."""
    made = partial(_counted, segmenter, data)
    return merge(spread(made, len(data.test), processes, label=f"segmentation, {data.name}"))


def _counted(segmenter: Segmenter, data: SegmentationSet, number: int) -> Counts:
    pixels, truth = data.read(data.test[number])
    counts = Counts(len(data.classes))
    counts.add(segmenter.predict(pixels, name=str(data.test[number].image)), truth, ignore=IGNORE)
    return counts
