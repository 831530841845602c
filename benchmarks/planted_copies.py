"""Recall and precision of ``dinov2 dedup`` on copies planted among real photographs, by kind and strength of the edit.

Photographs and paintings at 512 pixels; of each some copies, their kinds (nine) and strengths (three) taken in turn, so
that every cell has as many. All are written as files and go through the command's own functions. A pair is right where
both files come from one photograph; recall counts the copies paired with their original. The edits and what a strength
means are in ``curation/planting``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from dinov2_core.commands import options
from dinov2_core.curation import planting
from dinov2_core.curation.folders.copies import PAPER
from dinov2_core.curation.folders.dedup import dedup
from pipelines.demo import pictures

SIDE = 512
SERIES = {("025", "035"), ("029", "031"), ("099", "125"), ("117", "118")}
"""Photographs that show the same things moments apart, or one nebula in two colourings (looked at): their pairs are
neither right nor wrong in the first figure of precision, and wrong in the strict one."""


def write(folder: Path, count: int, copies: int, seed: int) -> None:
    """Fill the folder: ``NNN.jpg`` and its copies ``NNN-kind-strength.jpg``."""
    cells = [(kind, strength) for strength in planting.STRENGTHS for kind in planting.EDITS]
    order = np.random.default_rng(seed).permutation(count * copies) % len(cells)
    for index, (_, place) in enumerate(pictures.photo_files()[:count]):
        image = pictures.shrunk(place, SIDE)
        image.save(folder / f"{index:03d}.jpg", quality=92)
        for turn in range(copies):
            kind, strength = cells[order[index * copies + turn]]
            made = planting.plant(np.asarray(image), kind, (seed * count + index) * copies + turn, strength)
            Image.fromarray(made).save(folder / f"{index:03d}-{kind}-{strength}.jpg", quality=92)


def judged(folder: Path, out: Path) -> tuple[dict[tuple[str, str], list[bool]], list[tuple[str, str, float]], int]:
    """``(found or not by kind and strength, wrong pairs with their similarity, number of pairs)``."""
    pairs = pq.read_table(out / "pairs.parquet").to_pylist()
    wrong = [(p["a"], p["b"], p["similarity"]) for p in pairs if p["a"][:3] != p["b"][:3]]
    joined = {(p["a"], p["b"]) for p in pairs} | {(p["b"], p["a"]) for p in pairs}
    cells: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for copy in sorted(folder.glob("*-*.jpg")):
        _, kind, strength = copy.stem.split("-")
        cells[kind, strength].append((f"{copy.name[:3]}.jpg", copy.name) in joined)
    return cells, wrong, len(pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=201, help="photographs, at most what there is")
    parser.add_argument("--copies", type=int, default=6, help="of each photograph")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="", help="kept there: embeddings are not made again")
    parser.add_argument("--workers", type=int, default=1)
    options.add_search(parser, PAPER)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(given.out or scratch)
        folder = place / "images"
        if not folder.exists():
            folder.mkdir(parents=True)
            write(folder, given.count, given.copies, given.seed)
        started = time.perf_counter()
        said = dedup(str(folder), str(place / "out"), *options.search(given, PAPER), workers=given.workers)
        seconds = time.perf_counter() - started
        cells, wrong, pairs = judged(folder, place / "out")
    print(f"\n{said['images']} images in {seconds:.0f} s, rule {said['rule']}\n")
    print("| edit | " + " | ".join(planting.STRENGTHS) + " |\n" + "|---" * (1 + len(planting.STRENGTHS)) + "|")
    for kind in planting.EDITS:
        shares = [f"{np.mean(cells[kind, s]):.3f}" if cells[kind, s] else "–" for s in planting.STRENGTHS]
        print(f"| {kind} | " + " | ".join(shares) + " |")
    every = [hit for hits in cells.values() for hit in hits]
    series = [pair for pair in wrong if (pair[0][:3], pair[1][:3]) in SERIES]
    plain = 1 - (len(wrong) - len(series)) / max(pairs - len(series), 1)
    strict = 1 - len(wrong) / max(pairs, 1)
    print(f"\n{len(every)} copies, recall {np.mean(every):.4f}")
    print(f"{pairs} pairs, precision {plain:.4f}; with {len(series)} pairs of one series as wrong {strict:.4f}")
    for a, b, similarity in sorted(set(wrong) - set(series), key=lambda pair: -pair[2])[:20]:
        print(f"wrong: {a} {b} {similarity:.3f}", file=sys.stderr)


if __name__ == "__main__":
    main()
