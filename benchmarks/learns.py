"""Does it learn: weighted k-NN on CIFAR-10 after the same minutes on the same machine.

Ours, lightly-train's DINOv2 (its own environment, ``--lightly PYTHON``), the untrained network and raw pixels; with
``--ablate`` ours without KoLeo, without the patch loss, and with centring for Sinkhorn-Knopp. Training sees the 50,000
train pictures without labels; the gallery is the first 5,000 of them, the queries are the 10,000 test pictures.
Minutes are a processor's on the CPU, so that a busy machine takes longer but compares the same work.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from dinov2_core.evaluate.features import extract, pixel_features
from dinov2_core.evaluate.knn import knn_predict
from dinov2_core.model.preprocessing import Preprocessing
from dinov2_core.model.vision_transformer import VisionTransformer
from dinov2_core.train import recipes
from dinov2_core.train.batches import PoolBatches
from dinov2_core.train.objective import build_network
from dinov2_core.train.recipe import Recipe, override
from dinov2_core.train.trainer import train
from pipelines.demo.pictures import Cifar, cifar

K, TEMPERATURE, GALLERY, PROBE_STEPS = 20, 0.07, 5_000, 40
ABLATIONS: dict[str, dict[str, Any]] = {
    "without KoLeo": {"loss.koleo": 0.0},
    "without the patch loss": {"loss.ibot": 0.0},
    "centring for Sinkhorn-Knopp": {"loss.targets": "centering"},
}
PEER = Path(__file__).with_name("peers") / "lightly_learns.py"


def accuracy(gallery: torch.Tensor, queries: torch.Tensor, data: Cifar) -> tuple[float, float]:
    """k-NN accuracy in per cent and half of its 95 % interval."""
    labels = torch.from_numpy(data.train_labels[:GALLERY])
    hits = knn_predict(gallery, labels, queries, k=K, temperature=TEMPERATURE).numpy() == data.test_labels
    return 100 * float(hits.mean()), 196 * float(hits.std()) / math.sqrt(len(hits))


def planes(pixels: np.ndarray) -> torch.Tensor:
    """``[N, 32, 32, 3]`` → ``[N, 3, 32, 32]``."""
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))


def score(backbone: VisionTransformer, recipe: Recipe, data: Cifar, device: str) -> tuple[float, float]:
    backbone = backbone.to(device).eval()
    preprocessing = Preprocessing(recipe.model.image_size, recipe.crops.mean, recipe.crops.std)
    one = extract(backbone, planes(data.train[:GALLERY]), preprocessing)
    return accuracy(one, extract(backbone, planes(data.test), preprocessing), data)


def ours(recipe: Recipe, minutes: float, data: Cifar, device: str) -> dict[str, Any]:
    """Train for ``minutes``: the speed of some steps tells how many fit, and the schedules span exactly those."""
    pool = planes(data.train)
    clock = time.process_time if device == "cpu" else time.perf_counter

    def run(steps: int) -> tuple[Any, Recipe, float]:
        sized = override(recipe, {"steps": steps, "optim.warmup": min(recipe.optim.warmup, steps // 4)})
        started = clock()
        trained = train(sized, PoolBatches(pool, sized), log_every=200, label="learning", device=torch.device(device))
        return trained, sized, clock() - started

    run(5)
    probe = run(PROBE_STEPS)[2]
    trained, sized, seconds = run(max(PROBE_STEPS, int(0.95 * minutes * 60 / probe * PROBE_STEPS)))
    mean, half = score(trained.objective.average["backbone"], sized, data, device)
    images = sized.steps * sized.batch
    return {"knn": mean, "half": half, "minutes": seconds / 60, "images": images, "images_s": images / seconds}


def untrained(recipe: Recipe, data: Cifar, device: str) -> dict[str, Any]:
    torch.manual_seed(recipe.seed)
    backbone = build_network(recipe.model, recipe.dino_head, recipe.ibot_head)["backbone"]
    mean, half = score(backbone, recipe, data, device)
    return {"knn": mean, "half": half}


def pixels(data: Cifar) -> dict[str, Any]:
    mean, half = accuracy(*pixel_features(planes(data.train[:GALLERY]), planes(data.test)), data)
    return {"knn": mean, "half": half}


def lightly(python: str, minutes: float, threads: int, data: Cifar) -> dict[str, Any]:
    """The peer in its own environment: it is given PNG folders and gives back embeddings."""
    from PIL import Image

    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        for name, stack in (("train", data.train), ("gallery", data.train[:GALLERY]), ("test", data.test)):
            (root / name).mkdir()
            for index, picture in enumerate(stack):
                Image.fromarray(picture).save(root / name / f"{index:05d}.png", compress_level=1)
        command = [python, str(PEER), "--root", scratch, "--minutes", str(minutes), "--threads", str(threads)]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
        subprocess.run(command, check=True, env=environment, stdout=sys.stderr)
        found = json.loads((root / "result.json").read_text())
        one, two = (torch.from_numpy(np.load(root / f"{name}.npy")) for name in ("gallery", "test"))
    mean, half = accuracy(one, two, data)
    return {"knn": mean, "half": half, **found}


def row(name: str, found: dict[str, Any]) -> str:
    took = "– | – | –"
    if "minutes" in found:
        took = f"{found['minutes']:.1f} | {found['images']:,} | {found['images_s']:.0f}"
    return f"| {name} | {found['knn']:.2f} ± {found['half']:.2f} | {took} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0, help="of training, for each of ours and the peer")
    parser.add_argument("--recipe", default="demo")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--lightly", metavar="PYTHON", default="", help="the interpreter that has lightly-train")
    parser.add_argument("--ablate", action="store_true", help="ours with one part left out at a time, instead of peers")
    parser.add_argument("--only", default="", help="one method: ours, lightly, untrained, pixels or an ablation")
    parser.add_argument("--out", default="", help="JSON lines are added to this file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings of the recipe")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    changes = {key: yaml.safe_load(value) for key, value in (one.split("=", 1) for one in options.overrides)}
    recipe = override(recipes.get(options.recipe), changes)
    data, minutes, device = cifar(), options.minutes, options.device
    methods = {"ours": lambda: ours(recipe, minutes, data, device)}
    for name, change in ABLATIONS.items():
        if options.ablate or options.only == name:
            methods[name] = lambda change=change: ours(override(recipe, change), minutes, data, device)
    if not options.ablate:
        if options.lightly:
            methods["lightly"] = lambda: lightly(options.lightly, minutes, options.threads, data)
        methods["untrained"] = lambda: untrained(recipe, data, device)
        methods["pixels"] = lambda: pixels(data)
    if options.only:
        methods = {options.only: methods[options.only]}
    print("| method | k-NN (k 20, T 0.07) | minutes | images seen | images/s |\n|---|---|---|---|---|", flush=True)
    for name, method in methods.items():
        found = method()
        print(row(name, found), flush=True)
        if options.out:
            with open(options.out, "a") as f:
                f.write(json.dumps({"method": name, "threads": options.threads, "overrides": changes, **found}) + "\n")


if __name__ == "__main__":
    main()
