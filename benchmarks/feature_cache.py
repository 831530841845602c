"""What a second protocol costs on features that the first has left in the cache: target 10 % of the first's time.

``python -m benchmarks.feature_cache --images 2000``
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dinov2_core.evaluate import evaluation
from dinov2_core.evaluate.cache import FeatureCache
from dinov2_core.evaluate.model import EvalModel
from dinov2_core.evaluate.protocol import Context
from dinov2_core.model.preprocessing import Preprocessing
from dinov2_core.model.vision_transformer import VisionTransformer, VitConfig


def main() -> None:
    """Print the seconds of k-NN, which computes the features, and of few-shot k-NN, which finds them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--depth", type=int, default=12)
    options = parser.parse_args()
    torch.manual_seed(0)
    config = VitConfig(dim=options.dim, depth=options.depth, heads=options.dim // 64, patch=14, image_size=options.size)
    model = EvalModel.of(VisionTransformer(config), Preprocessing(options.size))
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for split in ("train", "test"):
            for i in range(options.images // 2):
                path = root / "set" / split / str(i % 10) / f"{i}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 256, (160, 160, 3), dtype=np.uint8)).save(path)
        data, context = evaluation.open_data(str(root / "set")), Context(FeatureCache(root / "cache"))
        seconds = [evaluation.evaluate(model, data, [p], context).seconds[p] for p in ("knn", "knn-few-shot")]
    print(f"first {seconds[0]:.2f} s, second {seconds[1]:.2f} s: {100 * seconds[1] / seconds[0]:.1f} %")


if __name__ == "__main__":
    main()
