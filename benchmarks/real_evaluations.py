"""Every protocol that real data from package registries allow, on given weights: one table, about a minute a row.

Instance retrieval over emoji of seven vendors; segmentation of emoji cut-outs on photos (their transparency is the
truth); depth of a simulated castle; clips told apart; CIFAR-10 by every classification protocol and under corruptions;
defects of solar cells. An untrained network of the same shape stands beside each model: what is not above it was not
learned.

The castle comes as a Debian package (`visp-images-data`), fetched with apt-get where there is one.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from PIL import Image

from dinov2_core import parts
from dinov2_core.evaluate import (
    dense_protocol,
    depth,
    evaluation,
    frames,
    retrieval_protocol,
    segmentation,
    video_protocol,
)
from dinov2_core.evaluate.cache import FeatureCache
from dinov2_core.evaluate.datasets import depth as depth_sets
from dinov2_core.evaluate.datasets import retrieval, solar_cells, video
from dinov2_core.evaluate.datasets import segmentation as segmentation_sets
from dinov2_core.evaluate.datasets.labelled import LabelledSet, Picture, Split
from dinov2_core.evaluate.dense_training import Schedule
from dinov2_core.evaluate.model import EvalModel
from dinov2_core.evaluate.protocol import Context, Scores
from dinov2_core.model.vision_transformer import VisionTransformer
from pipelines.demo import pictures as cifar_pictures

VENDORS = ("Appl", "Goog", "Twtr", "Joy", "FB", "Sams", "Wind")
Run = Callable[[EvalModel, Context], Scores]


def emoji(work: Path, limit: int) -> list[Run]:
    """The gallery is one vendor's drawings, the queries another's of the same signs."""
    source = parts.fetch(["emoji_vendors"])[0]
    common = sorted(set.intersection(*({p.name for p in (source / v).glob("*.png")} for v in VENDORS)))
    chosen = common[:: max(len(common) // limit, 1)][:limit]
    for vendor in VENDORS:
        (work / vendor).mkdir(parents=True, exist_ok=True)
        for name in chosen:
            if not (work / vendor / name).exists():
                shutil.copyfile(source / vendor / name, work / vendor / name)
    sets = [retrieval.takes(work, VENDORS[0], vendor) for vendor in VENDORS[1:]]
    options = retrieval_protocol.InstanceOptions()
    return [lambda m, c, s=s: retrieval_protocol.run_instances(m, s, options, c) for s in sets]


def cut_outs(work: Path, train: int, test: int, side: int = 128) -> list[Run]:
    """Up to three emoji on a piece of a photo; where they are opaque is class 1."""
    emoji_root, photos = parts.fetch(["emoji", "wallpapers"])
    backgrounds = sorted((photos / "images-eink").rglob("*.webp"))
    signs = sorted((emoji_root / "Goog").glob("*.png"))
    for part, count, seed in (("train", train, 0), ("val", test, 1)):
        rng = np.random.default_rng(seed)
        for folder in ("images", "masks"):
            (work / folder / part).mkdir(parents=True, exist_ok=True)
        # Neither photos nor emoji of the test are in train.
        ours, theirs = (p[seed::2] for p in (backgrounds, signs))
        for i in range(count):
            photo = Image.open(ours[int(rng.integers(len(ours)))]).convert("RGB")
            left, top = (int(rng.integers(0, s - side)) for s in photo.size)
            picture = photo.crop((left, top, left + side, top + side))
            mask = Image.new("L", (side, side))
            for _ in range(int(rng.integers(1, 4))):
                size = int(rng.integers(28, 73))
                sign = Image.open(theirs[int(rng.integers(len(theirs)))]).convert("RGBA").resize((size, size))
                at = (int(rng.integers(0, side - size)), int(rng.integers(0, side - size)))
                picture.paste(sign, at, sign)
                mask.paste(1, at, sign.getchannel("A").point(lambda a: 255 if a > 127 else 0))
            picture.save(work / "images" / part / f"{i:04d}.png")
            mask.save(work / "masks" / part / f"{i:04d}.png")
    (work / "classes.txt").write_text("photo\nemoji\n")
    data = segmentation_sets.folder(work)
    schedule = Schedule(steps=300, batch=8, lr=3e-3, warmup=30)
    settings = segmentation.SegmentationSettings(size=side, augment=False, schedule=schedule)
    return [lambda m, c: dense_protocol.run_segmentation(m, data, settings, c)]


def castle(work: Path, folder: Path | None) -> list[Run]:
    """Depth of 8 of 40 frames, heads trained on the others."""
    found = folder or _debian(work, "visp-images-data")
    if found is None:
        return []
    data = depth_sets.visp_castle(next(found.rglob("Castle-simu")))
    # DPT works at four times the patches' pixels where patches are 4 wide: small pictures keep it to seconds.
    schedule = Schedule(steps=100, batch=4, lr=3e-3, weight_decay=1e-4, warmup=20, clip=35.0)
    settings = depth.DepthSettings(size=64, augment=False, channels=32, bins=64, schedule=schedule)
    # At 3e-3 a DPT head can end where its last ReLU gives nothing.
    gentle = replace(settings, schedule=replace(schedule, lr=1e-3))
    heads = (("linear", "linear4"), settings), (("dpt",), gentle)
    options = [dense_protocol.DepthOptions(names, chosen) for names, chosen in heads]
    return [lambda m, c, o=o: dense_protocol.run_depth(m, data, o, c) for o in options]


def clips(work: Path, seconds: float = 0.5) -> list[Run]:
    """Which clip a short piece is from: the early pieces train, the late ones test."""
    source = parts.fetch(["clips"])[0]
    for path in (source / name for name in ("bigbuckbunny.mp4", "bikes.mp4", "carphone_pristine.mp4")):
        shown = list(frames.all_frames(path))
        length = int(24 * seconds)
        pieces = [shown[i : i + length] for i in range(0, len(shown) - length + 1, length)]
        for n, piece in enumerate(pieces):
            part = "train" if n < 0.6 * len(pieces) else "val"
            _write_clip(work / part / path.stem / f"{n:03d}.mkv", piece)
    data = video.folder(work)
    options = video_protocol.VideoOptions()
    return [lambda m, c: video_protocol.run_video(m, data, options, c)]


def cifar10(train: int, test: int) -> LabelledSet:
    """The first pictures of both official splits."""
    found = cifar_pictures.cifar()
    sides = {"train": (found.train[:train], found.train_labels), "test": (found.test[:test], found.test_labels)}
    splits = [
        Split(
            name,
            tuple(Picture(f"cifar10 {name} {i}", cifar_pictures.encode(image)) for i, image in enumerate(images)),
            labels[: len(images)],
        )
        for name, (images, labels) in sides.items()
    ]
    classes = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    return LabelledSet("cifar10", tuple(classes), *splits)


def cifar(_work: Path) -> list[Run]:
    """k-NN, few-shot, linear grid, logistic; and the linear grid's head on fifteen corruptions."""
    data, fewer = cifar10(5000, 1000), cifar10(5000, 500)
    settings: Mapping[str, Mapping[str, Any]] = {
        "knn": {"k": [20]},
        "linear": {"steps": 1000, "batch": 128},
        "corruptions": {"steps": 1000, "batch": 128, "severities": [1, 3, 5]},
    }
    run = [(name, data) for name in ("knn", "knn-few-shot", "linear", "logistic")] + [("corruptions", fewer)]
    return [lambda m, c, n=n, d=d: evaluation.evaluate(m, d, [n], c, settings).results[0] for n, d in run]


def cells(_work: Path) -> list[Run]:
    """Defect levels of solar cells: by their nearest neighbours, and by a linear layer."""
    data = solar_cells.load(parts.fetch(["solar_cells"])[0])
    settings = {"knn": {"k": [10, 20]}, "linear": {"steps": 1000, "batch": 128}}
    return [
        lambda m, c, n=n: evaluation.evaluate(m, data, [n], c, settings).results[0]
        for n in ("knn", "linear", "logistic")
    ]


def _write_clip(path: Path, piece: list[np.ndarray], side: int = 160) -> None:
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("ffv1", rate=24)
        stream.width, stream.height, stream.pix_fmt = side, side * 3 // 4, "yuv420p"
        for pixels in piece:
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            out.mux(stream.encode(frame.reformat(stream.width, stream.height, "yuv420p")))
        out.mux(stream.encode())


def _debian(work: Path, package: str) -> Path | None:
    target = work / package
    if target.is_dir():
        return target
    work.mkdir(parents=True, exist_ok=True)
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        print(f"skipped: {package} is a Debian package, and there is no apt-get here")
        return None
    done = subprocess.run(["apt-get", "download", package], cwd=work, capture_output=True, text=True, check=False)
    found = sorted(work.glob(f"{package}_*.deb"))
    if not found:
        print(f"skipped: {package} ({done.stderr.strip().splitlines()[-1] if done.stderr else 'not found'})")
        return None
    subprocess.run(["dpkg", "-x", str(found[0]), str(target)], check=True)
    return target


def untrained(model: EvalModel) -> EvalModel:
    """A network of the same shape whose weights nobody trained."""
    torch.manual_seed(0)
    return EvalModel.of(VisionTransformer(model.backbone.config), model.preprocessing, name="untrained")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", nargs="*", default=[], help="weight files; without one a small untrained network")
    parser.add_argument("--only", nargs="*", choices=("emoji", "cut_outs", "castle", "clips", "cifar", "cells"))
    parser.add_argument("--limit", type=int, default=600, help="emoji; and pictures of the cut-outs' train split / 6")
    parser.add_argument("--castle", type=Path, help="the unpacked Debian package, else it is fetched")
    parser.add_argument("--work", type=Path, default=Path("/tmp/dinov2-real-evaluations"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    models = [EvalModel.load(path) for path in options.weights]
    if not models:
        from dinov2_core.model.preprocessing import Preprocessing
        from dinov2_core.model.vision_transformer import VitConfig

        small = VisionTransformer(VitConfig(dim=192, depth=6, heads=3, patch=8, image_size=64))
        models = [EvalModel.of(small, Preprocessing(64))]
    models = [untrained(models[0]), *(models if options.weights else [])]
    made: dict[str, Callable[[], list[Run]]] = {
        "emoji": lambda: emoji(options.work / "emoji", options.limit),
        "cut_outs": lambda: cut_outs(options.work / "cut_outs", options.limit // 6, options.limit // 12),
        "castle": lambda: castle(options.work, options.castle),
        "clips": lambda: clips(options.work / "clips"),
        "cifar": lambda: cifar(options.work),
        "cells": lambda: cells(options.work),
    }
    rows = []
    context = Context(FeatureCache(options.work / "cache"))
    print("| data | score | " + " | ".join(m.name for m in models) + " | n | seconds |")
    print("|---|---|" + "---|" * (len(models) + 2))
    for name in options.only or made:
        for run in made[name]():
            started = time.perf_counter()
            found = [run(model, context) for model in models]
            seconds = time.perf_counter() - started
            for same in zip(*(f.scores for f in found), strict=True):
                cells_ = [f"{s.value:.3f} ({s.low:.3f} to {s.high:.3f})" for s in same]
                data = f"{found[0].protocol}: {found[0].dataset}"
                print(f"| {data} | {same[0].name} | {' | '.join(cells_)} | {same[0].n} | {seconds:.0f} |", flush=True)
                values = [[s.value, s.low, s.high] for s in same]
                rows.append({"data": data, "score": same[0].name, "values": values, "n": same[0].n})
    if options.json:
        options.json.write_text(json.dumps({"models": [m.name for m in models], "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
