"""Weighted k-nearest-neighbour classification on frozen features (paper, section 7.1; arXiv 1805.01978), exact."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def knn_predict(
    gallery: Tensor, labels: Tensor, queries: Tensor, *, k: int = 20, temperature: float = 0.07, block: int = 1024
) -> Tensor:
    """The class with the largest sum of ``exp(cosine / T)`` over the k most similar gallery images.

    Args:
        gallery: ``[G, D]``; ``labels``: ``[G]`` int64 from 0; ``queries``: ``[Q, D]``.
        k: capped at G.
        block: queries at a time; bounds memory at ``block · G`` floats and changes no result.

    Returns:
        ``[Q]`` int64; of equal votes the smallest class.
    """
    if not len(gallery):
        raise ValueError("empty gallery")
    one = F.normalize(gallery.float(), dim=1)
    classes = int(labels.max()) + 1
    predictions = []
    for part in queries.split(block):
        similarity, index = (F.normalize(part.float(), dim=1) @ one.T).topk(min(k, len(one)), dim=1)
        # Relative to the best: the same votes up to a factor, and no overflow at small temperatures.
        weight = ((similarity - similarity[:, :1]) / temperature).exp().double()
        votes = torch.zeros(len(part), classes, dtype=torch.float64).scatter_add_(1, labels[index], weight)
        predictions.append(votes.argmax(dim=1))
    return torch.cat(predictions) if predictions else torch.empty(0, dtype=torch.int64)
