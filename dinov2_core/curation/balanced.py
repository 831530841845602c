"""Drawing a sample that covers a cluster tree evenly, however unevenly its leaves are filled.

The tree is made in ``clustering`` (method: Vo et al., 2024, arXiv 2405.15613).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dinov2_core.curation.retrieval import cluster_sizes, members_of
from dinov2_core.curation.scratch import Scratch


def quotas(sizes: np.ndarray, target: int, rng: np.random.Generator) -> np.ndarray:
    """How many to draw of groups of ``sizes`` (int [K]) so that the largest draws are as small as can be: int64 [K].

    Each group gives all it has up to one common limit; what the limit leaves over goes to groups drawn at random.
    """
    target = min(target, int(sizes.sum()))
    low, high = 0, int(sizes.max(initial=0))
    while low < high:
        middle = (low + high + 1) // 2
        if np.minimum(sizes, middle).sum() <= target:
            low = middle
        else:
            high = middle - 1
    taken = np.minimum(sizes, low).astype(np.int64)
    open_groups = np.flatnonzero(sizes > low)
    extra = rng.permutation(open_groups)[: target - int(taken.sum())]
    taken[extra] += 1
    return taken


def balanced_sample(
    levels: Sequence[np.ndarray], target: int, *, seed: int = 0, scratch: Scratch | None = None
) -> np.ndarray:
    """``target`` of N points, drawn evenly from the top of the tree down: sorted int64 indices, each once.

    ``levels[0]`` int [N] is each point's cluster, ``levels[i + 1]`` the parent of each cluster of level i.
    ``scratch``: where what grows with N lies.
    """
    rng = np.random.default_rng(seed)
    weights = [cluster_sizes(levels[0], _width(levels, 0))]
    for depth in range(1, len(levels)):
        parents = levels[depth]
        weights.append(np.bincount(parents, weights=weights[-1][: len(parents)], minlength=_width(levels, depth)))
    share = quotas(weights[-1].astype(np.int64), target, rng)
    for depth in range(len(levels) - 1, 0, -1):
        below = np.zeros(len(levels[depth]), np.int64)
        sizes = weights[depth - 1].astype(np.int64)
        for parent, children in members_of(levels[depth], np.flatnonzero(share)):
            below[children] = quotas(sizes[children], int(share[parent]), rng)
        share = below
    leaves = members_of(levels[0], np.flatnonzero(share), scratch)
    chosen = [rng.permutation(own)[: share[leaf]].copy() for leaf, own in leaves]
    return np.sort(np.concatenate(chosen)) if chosen else np.zeros(0, np.int64)


def _width(levels: Sequence[np.ndarray], depth: int) -> int:
    """Number of clusters at ``depth``."""
    if depth + 1 < len(levels):
        return len(levels[depth + 1])
    return int(levels[depth].max(initial=-1)) + 1
