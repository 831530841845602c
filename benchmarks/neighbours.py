"""Exact neighbour search on the CPU against Faiss flat, and the approximate kinds with their recall.

Prints the median seconds of several runs, which alternate so that a busy machine slows all alike, and the ratio to
Faiss flat. Vectors are random (the hard case: nothing is near) or, with ``--clustered``, in groups like a crawl's.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import faiss
import numpy as np
import torch

from dinov2_core.curation.neighbours import Kind, NeighbourSearch, measured_recall

THRESHOLD = 0.6
APPROXIMATE: tuple[Kind, ...] = ("ivf", "ivf-pq")


def vectors(count: int, dim: int, clustered: bool) -> np.ndarray:
    rng = np.random.default_rng(0)
    made = rng.standard_normal((count, dim), dtype=np.float32)
    if clustered:
        made = (
            made
            + 1.5
            * rng.standard_normal((max(1, count // 50), dim), dtype=np.float32)[
                rng.integers(0, max(1, count // 50), count)
            ]
        )
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def seconds(functions: dict[str, Callable[[], object]], runs: int) -> dict[str, tuple[float, float]]:
    """Median wall and processor seconds; the second says what a quiet machine would say."""
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in functions}
    for _ in range(runs):
        for name, function in functions.items():
            started = time.perf_counter(), time.process_time()
            function()
            took[name].append((time.perf_counter() - started[0], time.process_time() - started[1]))
    return {
        name: (statistics.median(wall for wall, _ in values), statistics.median(cpu for _, cpu in values))
        for name, values in took.items()
    }


def row(name: str, value: tuple[float, float], flat: tuple[float, float], recall: float) -> str:
    ratios = (f"{one / two:.2f}" for one, two in zip(flat, value, strict=True))
    return f"| {name} | {value[0]:.1f} | {value[1]:.1f} | {' | '.join(ratios)} | {recall:.3f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--k", type=int, default=64)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu", help="of our exact search: cpu or cuda")
    parser.add_argument("--clustered", action="store_true")
    parser.add_argument("--approximate", action="store_true", help="measure IVF and IVF-PQ too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    faiss.omp_set_num_threads(options.threads)
    pool = vectors(options.rows, options.dim, options.clustered)
    index = faiss.IndexFlatIP(options.dim)
    index.add(pool)

    def ours() -> NeighbourSearch:
        return NeighbourSearch(pool, device=options.device)

    flat, top = f"Faiss flat, top {options.k}", f"ours, exact top {options.k}"
    took = seconds(
        {
            flat: lambda: index.search(pool, options.k),
            top: lambda: ours().top(pool, options.k),
            f"ours, exact over {THRESHOLD}": lambda: ours().above(pool, THRESHOLD, options.k),
        },
        options.runs,
    )
    kind = "clustered" if options.clustered else "random"
    print(f"{options.rows} × {options.rows} × {options.dim}, {kind}, {options.threads} threads, {options.runs} runs\n")
    print("| search | seconds | processor seconds | times Faiss flat | by processor time | recall |")
    print("|---|---|---|---|---|---|")
    for name, value in took.items():
        print(row(name, value, took[flat], 1.0), flush=True)
    if options.approximate:
        for one in APPROXIMATE:
            search = NeighbourSearch(pool, kind=one)
            value = seconds({one: lambda search=search: search.top(pool, options.k)}, 1)[one]
            recall = measured_recall(search, pool, options.k)
            print(row(f"{one}, {search.probes} probes, built and searched", value, took[flat], recall), flush=True)


if __name__ == "__main__":
    main()
