"""An anchor for the k-NN driver that owes us nothing: torchvision's MobileNetV2 on CIFAR-10.

Its ImageNet features give about 74 % with 5,000 training and 1,000 test pictures at 96 pixels and k = 20, measured
without any of this code; raw pixels give about 27 % to 39 %, by how they are centred. Here the same goes through the
whole driver: splits, preprocessing, feature cache, vote, interval.

``python -m benchmarks.anchor_mobilenet``
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

from benchmarks.real_evaluations import cifar10
from dinov2_core import parts
from dinov2_core.evaluate import knn_protocol
from dinov2_core.evaluate.cache import FeatureCache
from dinov2_core.evaluate.model import EvalModel
from dinov2_core.evaluate.protocol import Context
from dinov2_core.model.preprocessing import Preprocessing
from dinov2_core.model.vision_transformer import VitConfig

WIDTH = 1280


class Foreign(nn.Module):
    """A convolutional network in the place of a backbone; of ``config`` only the width and one layer mean anything."""

    def __init__(self, network: nn.Module, size: int) -> None:
        super().__init__()
        self.network, self.config = network, VitConfig(WIDTH, depth=1, heads=1, patch=size, image_size=size)


class ForeignModel(EvalModel):
    """The mean of the last maps as the class token of the only layer."""

    @torch.inference_mode()
    def probe_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.backbone.network(self.preprocessing.normalize(images))
        pooled = maps.mean(dim=(2, 3))
        return pooled[:, None], pooled


def model(weights: Path, size: int) -> EvalModel:
    """MobileNetV2 with all of its weights found in the file."""
    network = torchvision.models.mobilenet_v2()
    network.load_state_dict(torch.load(weights, weights_only=True))
    backbone = Foreign(network.features.to(memory_format=torch.channels_last), size).eval()
    return ForeignModel("MobileNetV2", backbone, Preprocessing(size), f"{weights.name} {size}")  # type: ignore[arg-type]


def main() -> None:
    """Print accuracy at each k."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", type=int, default=5000)
    parser.add_argument("--test", type=int, default=1000)
    parser.add_argument("--size", type=int, default=96)
    options = parser.parse_args()
    weights = parts.fetch(["mobilenet"])[0]
    data = cifar10(options.train, options.test)
    with tempfile.TemporaryDirectory() as folder:
        context = Context(FeatureCache(Path(folder)))
        found = knn_protocol.run_knn(model(weights, options.size), data, knn_protocol.KnnOptions(), context)
    for score in found.scores:
        print(f"{score.name}: {100 * score.value:.1f} % ({100 * score.low:.1f} to {100 * score.high:.1f})")


if __name__ == "__main__":
    main()
