"""Finding planted copies in a folder of images: whole time and recall at equal precision, ours and ``imagededup``.

The folder holds real pictures and copies of some of them, of every kind in ``curation/planting``; whatever else a
method pairs counts as wrong. Times include reading and decoding; processor seconds are those of all processes, and say
what a quiet machine would say. The peer runs in its own environment (``--imagededup
PYTHON``) on as many threads; its CNN has no weights without a download, so with random ones only its speed counts.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import faiss
import numpy as np
import torch
from PIL import Image

from dinov2_core.curation import copy_hash, planting
from dinov2_core.curation.copy_detection import CopyEmbedder
from dinov2_core.curation.neighbours import NeighbourSearch
from dinov2_core.images.decode import Decoded, decode
from pipelines.demo import pictures

PEER = Path(__file__).with_name("peers") / "imagededup_pairs.py"
PRECISION, FLOOR, NEIGHBOURS, BLOCK = 0.99, 0.3, 64, 256
Pairs = dict[tuple[str, str], float]


def originals(kind: str, count: int) -> Iterator[np.ndarray]:
    if kind == "cifar":
        yield from pictures.cifar().train[:count]
        return
    for _, place in pictures.photo_files()[:count]:
        yield np.asarray(pictures.shrunk(place, 512))


def write(folder: Path, kind: str, count: int) -> set[tuple[str, str]]:
    """Fill the folder: two copies of every second picture. Returns the true pairs, copies of one picture included."""
    kinds = list(planting.EDITS)
    true: set[tuple[str, str]] = set()
    form, settings = ("png", {}) if kind == "cifar" else ("jpg", {"quality": 92})
    for index, pixels in enumerate(originals(kind, count)):
        names = [f"{index:06d}.{form}"]
        Image.fromarray(pixels).save(folder / names[0], **settings)
        for turn in range(2 if index % 2 == 0 else 0):
            edit = kinds[(index // 2 + turn * 3) % len(kinds)]
            names.append(f"{index:06d}-{turn}-{edit}.{form}")
            Image.fromarray(planting.plant(pixels, edit, 2 * index + turn)).save(folder / names[-1], **settings)
        true |= {(a, b) for i, a in enumerate(names) for b in names[i + 1 :]}
    return {(min(a, b), max(a, b)) for a, b in true}


def opened(place: Path, side: int) -> np.ndarray:
    with Image.open(place) as image:
        # JPEG decodes straight to the scale that the network needs, in a fraction of the time.
        image.draft("RGB", (side, side))
        return np.asarray(image.convert("RGB"))


def ours(folder: Path, model: str, side: int) -> Pairs:
    embedder = CopyEmbedder(model, side=side)
    files = sorted(folder.iterdir())
    blocks = (files[start : start + BLOCK] for start in range(0, len(files), BLOCK))
    matrix = np.concatenate([embedder([opened(place, side) for place in block]) for block in blocks])
    found = NeighbourSearch(matrix).above(matrix, FLOOR, NEIGHBOURS + 1)
    names = [place.name for place in files]
    triples = zip(found.query.tolist(), found.pool.tolist(), found.similarity.tolist(), strict=True)
    return {(names[a], names[b]): s for a, b, s in triples if a < b}


def hashed(folder: Path, threshold: float) -> Pairs:
    files = sorted(folder.iterdir())
    thumbnails = np.stack([copy_hash.thumbnail(decoded(place)) for place in files])
    names = [place.name for place in files]
    triples = zip(*(found.tolist() for found in copy_hash.copy_pairs(thumbnails, threshold)), strict=True)
    return {(names[a], names[b]): s for a, b, s in triples}


def decoded(place: Path) -> np.ndarray:
    made = decode(place.read_bytes(), enough=copy_hash.ENOUGH)
    assert isinstance(made, Decoded)
    return made.pixels


def recall(pairs: Pairs, true: set[tuple[str, str]], precision: float) -> tuple[float, float]:
    """The highest recall at ``precision`` or more over all thresholds, and that threshold."""
    ordered = sorted(pairs.items(), key=lambda item: -item[1])
    right = np.cumsum([pair in true for pair, _ in ordered])
    enough = np.flatnonzero(right >= precision * np.arange(1, len(ordered) + 1))
    if not len(enough):
        return 0.0, float("nan")
    # A threshold takes all pairs of equal score or none.
    values = np.array([value for _, value in ordered])
    whole = [i for i in enough if i + 1 == len(values) or values[i + 1] < values[i]]
    return (float(right[whole[-1]] / len(true)), float(values[whole[-1]])) if whole else (0.0, float("nan"))


def peer(python: str, folder: Path, method: str, threads: int) -> tuple[tuple[float, float], Pairs]:
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    with tempfile.NamedTemporaryFile(suffix=".json") as out:
        command = [python, str(PEER), str(folder), method, str(threads), out.name]
        subprocess.run(command, check=True, env=environment, stdout=sys.stderr)
        found = json.loads(Path(out.name).read_text())
    return (found["seconds"], found["processor"]), {(a, b): score for a, b, score in found["pairs"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", choices=("photos", "cifar"), default="photos")
    parser.add_argument("--count", type=int, default=1_000, help="originals, at most what there is")
    parser.add_argument("--model", default="sscd_distilled")
    parser.add_argument("--side", type=int, default=0, help="0: 128 for cifar, 160 for photos")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--threshold", type=float, default=0.8, help="of the hash: pairs under it are not looked for")
    parser.add_argument("--imagededup", metavar="PYTHON", default="")
    parser.add_argument("--peers", default="phash,cnn", help="methods of imagededup")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    faiss.omp_set_num_threads(options.threads)
    side = options.side or (128 if options.pictures == "cifar" else 160)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        true = write(folder, options.pictures, options.count)
        images = len(list(folder.iterdir()))
        print(f"{images} images ({options.pictures}), {len(true)} true pairs, {options.threads} threads\n")
        print(
            f"| method | seconds | processor s | images/processor s | recall at precision {PRECISION} | threshold |"
            "\n|---|---|---|---|---|---|"
        )

        def show(name: str, took: tuple[float, float], pairs: Pairs) -> None:
            found, threshold = recall(pairs, true, PRECISION)
            speed = f"{took[0]:.1f} | {took[1]:.1f} | {images / took[1]:.0f}"
            print(f"| {name} | {speed} | {found:.3f} | {threshold:.3f} |", flush=True)

        def timed(find: Callable[[], Pairs]) -> tuple[tuple[float, float], Pairs]:
            before = time.perf_counter(), time.process_time()
            pairs = find()
            return (time.perf_counter() - before[0], time.process_time() - before[1]), pairs

        show(f"ours, hash over {options.threshold}", *timed(lambda: hashed(folder, options.threshold)))
        # The peers' times are their own too: after imports and the loading of weights.
        ours_warm = CopyEmbedder(options.model, side=side)
        ours_warm([np.zeros((side, side, 3), np.uint8)])
        show(f"ours, {options.model} at {side}", *timed(lambda: ours(folder, options.model, side)))
        for method in options.peers.split(",") if options.imagededup else ():
            show(f"imagededup, {method}", *peer(options.imagededup, folder, method, options.threads))


if __name__ == "__main__":
    main()
