"""Out-of-distribution detection by the distance to the k-th neighbour (arXiv 2204.06507).

Not in the paper. The training features are the only thing fitted.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata
from torch import Tensor


def knn_scores(train: Tensor, queries: Tensor, *, k: int = 50, block: int = 1024) -> NDArray[np.float64]:
    """Cosine with the k-th nearest training feature: high where a query looks like training.

    Args:
        train: ``[N, D]``; ``queries``: ``[Q, D]``.
        k: capped at N.
        block: queries at a time; bounds memory at ``block · N`` floats.

    Returns:
        ``[Q]``.
    """
    if not len(train):
        raise ValueError("no training features")
    one, k = F.normalize(train.float(), dim=1), min(k, len(train))
    parts = [(F.normalize(p.float(), dim=1) @ one.T).topk(k, dim=1).values[:, -1] for p in queries.split(block)]
    return torch.cat(parts).double().numpy()


def auroc(inside: ArrayLike, outside: ArrayLike) -> float:
    """The chance that an in-distribution score is higher than an out-of-distribution one; ties count half."""
    a, b = _both(inside, outside)
    ranks = rankdata(np.concatenate([a, b]))
    return float((ranks[: len(a)].sum() - len(a) * (len(a) + 1) / 2) / (len(a) * len(b)))


def fpr_at_tpr(inside: ArrayLike, outside: ArrayLike, tpr: float = 0.95) -> float:
    """The share of out-of-distribution images let in by the highest threshold that lets ``tpr`` of the others in."""
    a, b = _both(inside, outside)
    needed = int(np.ceil(tpr * len(a) - 1e-9))
    threshold = np.sort(a)[::-1][needed - 1]
    return float((b >= threshold).mean())


def _both(inside: ArrayLike, outside: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    a, b = np.asarray(inside, dtype=np.float64), np.asarray(outside, dtype=np.float64)
    if not a.size or not b.size:
        raise ValueError("scores of both kinds are needed")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("a score is not finite")
    return a, b
