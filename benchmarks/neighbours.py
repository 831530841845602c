"""Exact neighbour search on the CPU against Faiss flat: pairs over a threshold, at most k a query.

Prints a table with medians of several runs and the ratio. A size may be given: ``neighbours.py 100000``.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable

import faiss
import numpy as np

from dinov2_core.curation.neighbours import NeighbourSearch

DIM, K, THRESHOLD, RUNS = 512, 64, 0.6, 3


def vectors(count: int) -> np.ndarray:
    made = np.random.default_rng(0).standard_normal((count, DIM), dtype=np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def median(function: Callable[[], object]) -> float:
    seconds = []
    for _ in range(RUNS):
        started = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    pool = vectors(count)
    index = faiss.IndexFlatIP(DIM)
    index.add(pool)
    peer = median(lambda: index.search(pool, K))
    ours = median(lambda: NeighbourSearch(pool).above(pool, THRESHOLD, K))
    print(f"{count} × {count} × {DIM}, k {K}, cosine > {THRESHOLD}, {os.cpu_count()} cores, median of {RUNS}")
    print(f"| search | seconds | ratio |\n|---|---|---|\n| Faiss flat top-{K} | {peer:.2f} | 1.00 |")
    print(f"| ours, over the threshold | {ours:.2f} | {peer / ours:.2f} |")


if __name__ == "__main__":
    main()
