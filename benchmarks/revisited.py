"""Revisited Oxford's mAP after features: ranking and both setups of 70 queries in 5,000 pictures; target 1 s.

``python -m benchmarks.revisited``
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from dinov2_core.evaluate import retrieval
from dinov2_core.evaluate.protocol import score


def main() -> None:
    """Print the seconds of ranking, and of average precision with its intervals."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gallery", type=int, default=5000)
    parser.add_argument("--queries", type=int, default=70)
    parser.add_argument("--dim", type=int, default=1024)
    options = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    gallery = torch.randn(options.gallery, options.dim, generator=generator)
    queries = torch.randn(options.queries, options.dim, generator=generator)
    rng = np.random.default_rng(0)
    truth = []
    for _ in range(options.queries):
        # Revisited Oxford has some 50 easy, 60 hard and 80 junk pictures a query.
        chosen = rng.permutation(options.gallery)[:190]
        truth.append({"easy": chosen[:50], "hard": chosen[50:110], "junk": chosen[110:]})
    start, busy = time.perf_counter(), time.process_time()
    order = retrieval.rank(gallery, queries)
    ranked = time.perf_counter()
    for setup in ("medium", "hard"):
        found = score(setup, retrieval.revisited_ap(order, truth, setup))
        print(f"mAP {setup} {found.value:.4f} ({found.low:.4f} to {found.high:.4f})")
    end = time.perf_counter()
    print(f"ranking {ranked - start:.3f} s, average precision {end - ranked:.3f} s, together {end - start:.3f} s")
    print(f"processor time {time.process_time() - busy:.3f} s")


if __name__ == "__main__":
    main()
