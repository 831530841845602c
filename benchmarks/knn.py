"""k-NN neighbours, 10k queries in 50k × 384: ours against scikit-learn's brute force.

``python -m benchmarks.knn``
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from sklearn.neighbors import NearestNeighbors

from dinov2_core.evaluate.knn import nearest


def main() -> None:
    """Print seconds of both, and how many neighbours agree."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gallery", type=int, default=50_000)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--k", type=int, default=200)
    options = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    gallery = torch.nn.functional.normalize(torch.randn(options.gallery, options.dim, generator=generator), dim=1)
    queries = torch.nn.functional.normalize(torch.randn(options.queries, options.dim, generator=generator), dim=1)
    start = time.perf_counter()
    found = nearest(gallery, queries, options.k)
    print(f"ours                       {time.perf_counter() - start:6.2f} s", flush=True)
    for metric in ("euclidean", "cosine"):
        # On unit vectors both rank alike; scikit-learn has a fused kernel for the first only.
        start = time.perf_counter()
        search = NearestNeighbors(n_neighbors=options.k, metric=metric, algorithm="brute").fit(gallery.numpy())
        theirs = search.kneighbors(queries.numpy(), return_distance=False)
        same = np.mean([len(np.intersect1d(a, b)) for a, b in zip(found.index.numpy(), theirs, strict=True)])
        print(
            f"scikit-learn, {metric:10}   {time.perf_counter() - start:6.2f} s, {same / options.k:.4%} the same",
            flush=True,
        )


if __name__ == "__main__":
    main()
