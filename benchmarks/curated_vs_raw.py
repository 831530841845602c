"""Does curation pay: the same network, the same number of steps, on a raw pool and on what is curated from it.

The pool is CIFAR-10 pictures and four times as much junk (emoji, textures, crops of wallpapers and of rooms), all at
32 pixels; the seeds are 50 pictures of each class that are not in the pool. An encoder embeds both, and retrieval
around the seeds draws the curated set. Two encoders: ``mobilenet`` was trained on ImageNet with labels, in place of the
paper's ViT trained on ImageNet-22k without; ``preliminary`` knows nothing but the seeds, on which the recipe ``demo``
trains it here. Raw and curated are then trained on alike. Gallery and queries of the k-NN are labelled pictures that
neither the seeds nor the pool hold. ``--seed`` draws seeds, pool, junk and first weights anew; with ``--steps 0`` only
the junk is counted, which is how settings are chosen, on another seed than the one reported.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image

from dinov2_core import parts
from dinov2_core.curation import vectors
from dinov2_core.curation.clustering import assign, kmeans
from dinov2_core.curation.neighbours import NeighbourSearch
from dinov2_core.curation.retrieval import cluster_based, sample_based, seed_floor
from dinov2_core.evaluate.features import extract
from dinov2_core.evaluate.knn import knn_predict
from dinov2_core.model.preprocessing import Preprocessing
from dinov2_core.model.vision_transformer import VisionTransformer
from dinov2_core.train import recipes
from dinov2_core.train.batches import PoolBatches
from dinov2_core.train.objective import build_network
from dinov2_core.train.recipe import Recipe, override
from dinov2_core.train.trainer import train
from pipelines.demo import pictures

JUNK_SHARE, SEEDS_PER_CLASS, GALLERY = 4, 50, 5_000
K, TEMPERATURE = 20, 0.07
SIDE = 32
ENLARGED = 96
"""Pixels at which MobileNetV2 sees the pictures: at 32 its last map is a single cell."""
Encoder = Callable[[np.ndarray], np.ndarray]
"""uint8 [N, 32, 32, 3] → float32 [N, D] of unit length."""


@dataclass(frozen=True)
class World:
    """Pictures uint8 [N, 32, 32, 3]; ``junk`` says which of the pool's are none of CIFAR-10's."""

    pool: np.ndarray
    junk: np.ndarray
    seeds: np.ndarray
    gallery: np.ndarray
    gallery_labels: np.ndarray
    queries: np.ndarray
    query_labels: np.ndarray


def small(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX))


def crops(count: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Squares of random size and place out of photographs and paintings, as often from each; none of them flat."""
    files = [place for _, place in pictures.photo_files()]
    each = -(-count // len(files)) + 8
    made: list[np.ndarray] = []
    for place in files:
        image = pictures.shrunk(place, 1024)
        taken = 0
        for _ in range(4 * each):
            side = int(rng.integers(64, max(65, min(image.size) // 2)))
            left, top = int(rng.integers(image.width - side + 1)), int(rng.integers(image.height - side + 1))
            patch = small(image.crop((left, top, left + side, top + side)))
            if patch.astype(np.float32).mean(axis=2).std() > 12:
                made.append(patch)
                taken += 1
            if taken == each:
                break
    return [made[i] for i in rng.permutation(len(made))[:count]]


def world(good: int, queries: int, seed: int) -> World:
    data, rng = pictures.cifar(), np.random.default_rng(seed)
    order = rng.permutation(len(data.train))
    by_class = [order[data.train_labels[order] == label][:SEEDS_PER_CLASS] for label in range(10)]
    seeds = np.concatenate(by_class)
    rest = order[~np.isin(order, seeds)]
    gallery, chosen = rest[:GALLERY], rest[GALLERY : GALLERY + good]
    emoji = [small(image) for image in pictures.emoji(good // 4, rng)]
    patches = [small(image) for image in pictures.textures(good // 2, rng)]
    junk = [*emoji, *patches]
    junk += crops(JUNK_SHARE * good - len(junk), rng)
    pool = np.concatenate([data.train[chosen], np.stack(junk)])
    return World(
        pool,
        np.arange(len(pool)) >= len(chosen),
        data.train[seeds],
        data.train[gallery],
        data.train_labels[gallery],
        data.test[:queries],
        data.test_labels[:queries],
    )


def planes(pixels: np.ndarray) -> torch.Tensor:
    """``[N, 32, 32, 3]`` → ``[N, 3, 32, 32]``."""
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))


def trained(pixels: np.ndarray, recipe: Recipe, steps: int, label: str) -> VisionTransformer:
    sized = override(recipe, {"steps": steps, "optim.warmup": min(recipe.optim.warmup, steps // 6)})
    done = train(sized, PoolBatches(planes(pixels), sized), log_every=100, label=label)
    backbone = done.objective.average["backbone"]
    assert isinstance(backbone, VisionTransformer)
    return backbone.eval()


def features(backbone: VisionTransformer, recipe: Recipe, pixels: np.ndarray) -> torch.Tensor:
    return extract(backbone, planes(pixels), Preprocessing(SIDE, recipe.crops.mean, recipe.crops.std))


def preliminary(found: World, recipe: Recipe, steps: int) -> Encoder:
    """The small encoder trained on the seeds alone."""
    backbone = trained(found.seeds, recipe, steps, "encoder of the seeds")
    return lambda pixels: vectors.unit(features(backbone, recipe, pixels).float().numpy())


def mobilenet() -> Encoder:
    """MobileNetV2's 1,280 averages before its classifier."""
    from torchvision.models import mobilenet_v2

    model = mobilenet_v2()
    model.load_state_dict(torch.load(parts.path("mobilenet"), weights_only=True))
    net = model.features.eval().to(memory_format=torch.channels_last)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))

    @torch.inference_mode()
    def encode(pixels: np.ndarray) -> np.ndarray:
        made = []
        for block in planes(pixels).split(256):
            large = torch.nn.functional.interpolate(block / 255, size=ENLARGED, mode="bicubic", antialias=True)
            seen = ((large - mean) / std).to(memory_format=torch.channels_last)
            made.append(net(seen).mean(dim=(2, 3)))
        return vectors.unit(torch.cat(made).numpy())

    return encode


def knn(backbone: VisionTransformer, recipe: Recipe, found: World) -> float:
    one, two = (features(backbone, recipe, pixels) for pixels in (found.gallery, found.queries))
    guess = knn_predict(one, torch.from_numpy(found.gallery_labels), two, k=K, temperature=TEMPERATURE)
    return 100 * float((guess.numpy() == found.query_labels).mean())


def curated(pool: np.ndarray, seeds: np.ndarray, options: argparse.Namespace) -> np.ndarray:
    """Sorted numbers of the pool pictures drawn around the seeds, by both of the paper's modes; embeddings [N, D]."""
    floor = seed_floor(seeds, options.floor) if options.floor >= 0 else -np.inf
    drawn = [np.zeros(0, np.int64)]
    if options.k:
        drawn.append(sample_based(seeds, NeighbourSearch(pool), options.k, floor=floor).pool)
    if options.per_cluster:
        centroids = kmeans(pool, min(options.clusters, len(pool) // 3))
        members, similarity = assign(pool, centroids)
        hits, _ = assign(seeds, centroids)
        rule = {"min_hits": options.min_hits, "per_cluster": options.per_cluster, "min_lift": options.min_lift}
        drawn.append(cluster_based(hits, members, similarity, **rule).pool)
    return np.unique(np.concatenate(drawn))


def row(name: str, pixels: int, junk: float, score: float | None) -> str:
    shown = "–" if score is None else f"{score:.2f}"
    return f"| {name} | {pixels:,} | {100 * junk:.1f} % | {shown} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--good", type=int, default=4_000, help="CIFAR-10 pictures in the pool")
    parser.add_argument("--queries", type=int, default=10_000, help="test pictures that are scored")
    parser.add_argument("--steps", type=int, default=2_000, help="of training, on raw and on curated alike")
    parser.add_argument("--encoder-steps", type=int, default=400, help="of the preliminary encoder")
    parser.add_argument("--sets", default="mobilenet,preliminary,raw,seeds,nothing", help="rows of the table")
    parser.add_argument("--k", type=int, default=4, help="nearest pool pictures a seed; 0: no sample mode")
    parser.add_argument("--clusters", type=int, default=200)
    parser.add_argument("--per-cluster", type=int, default=10_000, help="0: no cluster mode")
    parser.add_argument("--min-hits", type=int, default=3)
    parser.add_argument("--min-lift", type=float, default=0.0)
    parser.add_argument("--floor", type=float, default=-1.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found = world(options.good, options.queries, options.seed)
    recipe = replace(recipes.get("demo"), seed=options.seed)
    print(f"{len(found.pool):,} pictures, {options.steps} steps of {recipe.batch}, {vars(options)}\n")
    print("| trained on | pictures | junk | of the pool's CIFAR-10 | k-NN |\n|---|---|---|---|---|", flush=True)

    def show(name: str, chosen: np.ndarray) -> None:
        # The seeds enter every set as they are: what differs is the rest.
        pixels, good = np.concatenate([found.seeds, found.pool[chosen]]), int((~found.junk[chosen]).sum())
        junk = (len(chosen) - good) / len(pixels)
        score = f"{knn(trained(pixels, recipe, options.steps, name), recipe, found):.2f}" if options.steps else "–"
        line = f"| {name} | {len(pixels):,} | {100 * junk:.1f} % | {100 * good / options.good:.0f} % | {score} |"
        print(line, flush=True)

    for name in options.sets.split(","):
        if name == "nothing":
            torch.manual_seed(recipe.seed)
            untrained = build_network(recipe.model, recipe.dino_head, recipe.ibot_head)["backbone"].eval()
            assert isinstance(untrained, VisionTransformer)
            print(f"| nothing | 0 | – | – | {knn(untrained, recipe, found):.2f} |", flush=True)
        elif name == "raw":
            show("the raw pool", np.arange(len(found.pool)))
        elif name == "seeds":
            show("the seeds alone", np.zeros(0, np.int64))
        else:
            encode = mobilenet() if name == "mobilenet" else preliminary(found, recipe, options.encoder_steps)
            show(f"curated, encoder {name}", curated(encode(found.pool), encode(found.seeds), options))


if __name__ == "__main__":
    main()
