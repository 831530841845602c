"""``dinov2 leaks`` on CIFAR-10: how many of the test pictures with a near-duplicate in the training set does it find?

Nobody publishes which these are, so they were judged by eye. Candidates: of each test picture the ten training pictures
with the highest correlation of band-passed grey (blur 1 minus blur 3, windows of 24 pixels at nine shifts, mirrored
too), and its ten nearest by SSCD, so that neither way decides alone. Of each test picture the candidate whose fine
detail aligns best was kept (``curation/alignment.detail``), 1,631 over 0.45; bands of that correlation were sampled
evenly and looked at, enlarged, beside each other. A near-duplicate is the same photograph, or a frame of the same
scene: cropped, mirrored, recoloured, shifted, moments apart; another picture of the same model or motif is none.
``leaks_cifar_labels.csv`` holds the judgements: test and training index, the lower end of the band, how many test
pictures the band has, 0 or 1. Bands are weighted by their size. What has less than 0.45 was not looked at.

``reported`` rows are a random sample of the pairs that a run listed, judged in the same way: false pairs for each true
one are counted among these.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dinov2_core.curation.folders.copies import Search
from dinov2_core.curation.folders.dedup import leaks
from dinov2_core.curation.folders.description import Model
from pipelines.demo import pictures

LABELS = Path(__file__).with_name("leaks_cifar_labels.csv")
FILE = 2_500


def write(root: Path) -> None:
    """``pool`` and ``tests`` as Parquet files of PNG bytes."""
    cifar = pictures.cifar()
    for name, images in (("pool", cifar.train), ("tests", cifar.test)):
        (root / name).mkdir(parents=True)
        for start in range(0, len(images), FILE):
            some = range(start, start + FILE)
            columns = {"path": [f"{i:05d}.png" for i in some], "bytes": [pictures.encode(images[i]) for i in some]}
            pq.write_table(pa.table(columns), root / name / f"{start:05d}.parquet")


def score(listed: set[tuple[int, int]], rows: list[dict[str, str]]) -> dict[str, float]:
    """Recall over the test pictures, false pairs for each true one and how many judged pairs that rests on."""
    found = {test for test, _ in listed}
    banded = [r for r in rows if r["band"] != "reported"]
    weight = np.array([float(r["size"]) for r in banded])
    counts = {b: sum(r["band"] == b for r in banded) for b in {r["band"] for r in banded}}
    weight /= np.array([counts[r["band"]] for r in banded])
    copy = np.array([r["judged"] == "1" for r in banded])
    hit = np.array([int(r["test"]) in found for r in banded])
    kept = [r["judged"] == "1" for r in rows if (int(r["test"]), int(r["train"])) in listed and r["band"] == "reported"]
    return {
        "near-duplicates among the test pictures": float((weight * copy).sum()),
        "recall": float((weight * copy * hit).sum() / (weight * copy).sum()),
        "judged copies": float(copy.sum()),
        "false pairs for each true one": kept.count(False) / max(kept.count(True), 1),
        "judged of the listed": float(len(kept)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="", help="kept there: embeddings are not made again")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--precision", type=float, default=0.5)
    parser.add_argument("--share", type=float, default=0.08)
    parser.add_argument("--sample", type=int, default=500)
    options = parser.parse_args()
    rows = list(csv.DictReader(LABELS.open()))
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(options.out or scratch)
        if not (root / "tests").exists():
            write(root)
        search = Search(None, calibrate=True, sample=options.sample, precision=options.precision, share=options.share)
        started = time.perf_counter()
        said = leaks(
            str(root / "pool"),
            str(root / "tests"),
            str(root / "out"),
            Model("sscd_distilled", 128),
            search,
            workers=options.workers,
        )
        seconds = time.perf_counter() - started
        table = pq.read_table(root / "out" / "leaks.parquet").to_pylist()
    listed = {(int(r["benchmark"][-9:-4]), int(r["pool"][-9:-4])) for r in table}
    print(f"{seconds:.0f} s; {said['leaking pairs']} pairs, rule {said['rule']}\n\n| what | |\n|---|---|")
    print(f"| test pictures listed | {said['benchmark images with a copy in the pool']} |")
    for name, value in score(listed, rows).items():
        print(f"| {name} | {value:.3g} |")


if __name__ == "__main__":
    main()
