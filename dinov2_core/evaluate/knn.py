"""Weighted k-nearest-neighbour classification on frozen features (paper, section 7.1; arXiv 1805.01978), exact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from dinov2_core.errors import UserError

MEMORY = 512 << 20
"""Bytes that similarities may take at once."""


@dataclass(frozen=True)
class Nearest:
    """``similarity [Q, k]`` float32, falling; ``index [Q, k]`` int64 into the gallery."""

    similarity: Tensor
    index: Tensor


def nearest(gallery: Tensor, queries: Tensor, k: int, *, memory: int = MEMORY) -> Nearest:
    """The k most similar gallery rows by cosine, exactly.

    Args:
        gallery: ``[G, D]``; ``queries``: ``[Q, D]``.
        k: capped at G.
        memory: bytes that the similarities of a block of queries may take (one query at least); changes no result.

    Raises:
        ValueError: empty gallery.
        UserError: widths differ.
    """
    if not len(gallery):
        raise ValueError("empty gallery")
    if gallery.shape[1] != queries.shape[1]:
        raise UserError(f"features of width {gallery.shape[1]} and {queries.shape[1]}", todo="use one model for both")
    k = min(k, len(gallery))
    one = F.normalize(gallery.float(), dim=1).T.contiguous()
    # The heaps of a threshold pass cost less than a full selection: most similarities cannot be among the top k.
    block = max(1, min(4096, memory // (8 * one.shape[1])))
    similarity, index = torch.empty(len(queries), k), torch.empty(len(queries), k, dtype=torch.int64)
    for start in range(0, len(queries), block):
        part = F.normalize(queries[start : start + block].float(), dim=1) @ one
        similarity[start : start + block], index[start : start + block] = _top(part, k)
    return Nearest(similarity, index)


def merged(parts: Sequence[Nearest], offsets: Sequence[int], k: int) -> Nearest:
    """The top k over a gallery in shards, from each shard's top k; ``offsets``: the first row of each shard."""
    similarity = torch.cat([p.similarity for p in parts], dim=1)
    index = torch.cat([p.index + offset for p, offset in zip(parts, offsets, strict=True)], dim=1)
    values, chosen = similarity.topk(min(k, similarity.shape[1]), dim=1)
    return Nearest(values, index.gather(1, chosen))


def votes(
    found: Nearest, labels: Tensor, k: int, *, temperature: float = 0.07, classes: int | None = None
) -> NDArray[np.float64]:
    """The share of each class in the sum of ``exp(cosine / T)`` over the first k neighbours.

    The public reference normalises by the softmax over 200 neighbours and then takes k of them: another constant
    factor a query, hence the same classes.

    Args:
        found: neighbours, at least ``min(k, G)`` a query.
        labels: ``[G]`` int64 from 0.

    Returns:
        ``[Q, classes]``; rows sum to 1.
    """
    similarity, index = found.similarity[:, :k], found.index[:, :k]
    width = classes or int(labels.max()) + 1
    if not len(similarity):
        return np.empty((0, width))
    # Relative to the best: the same votes up to a factor, and no overflow at small temperatures.
    weight = ((similarity - similarity[:, :1]) / temperature).exp().double()
    total = torch.zeros(len(similarity), width, dtype=torch.float64)
    total.scatter_add_(1, labels[index], weight)
    return np.asarray((total / total.sum(dim=1, keepdim=True)).numpy())


def vote(
    found: Nearest, labels: Tensor, k: int, *, temperature: float = 0.07, classes: int | None = None
) -> NDArray[np.int64]:
    """The class with the largest of :func:`votes`; of equal ones the smallest. ``[Q]`` int64."""
    return votes(found, labels, k, temperature=temperature, classes=classes).argmax(axis=1)


def knn_predict(
    gallery: Tensor, labels: Tensor, queries: Tensor, *, k: int = 20, temperature: float = 0.07, memory: int = MEMORY
) -> Tensor:
    """:func:`nearest` and :func:`vote` in one. ``gallery [G, D]``, ``labels [G]``, ``queries [Q, D]`` → ``[Q]``."""
    found = nearest(gallery, queries, k, memory=memory)
    return torch.from_numpy(vote(found, labels, k, temperature=temperature))


def few_shot(labels: Tensor, shots: int, *, tries: int, seed: int = 0) -> list[Tensor]:
    """Rows of ``shots`` images a class, drawn anew for each of ``tries``; sorted.

    Raises:
        UserError: a class has fewer images.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.nonzero(labels == c).flatten() for c in range(int(labels.max()) + 1)]
    short = min(range(len(rows)), key=lambda c: len(rows[c]))
    if len(rows[short]) < shots:
        raise UserError(
            f"class {short} has {len(rows[short])} images, {shots} a class are asked for", todo="ask for fewer"
        )
    return [
        torch.cat([r[torch.randperm(len(r), generator=generator)[:shots]] for r in rows]).sort().values
        for _ in range(tries)
    ]


def _top(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Top k of each row, ``[B, k]`` values and positions: first of groups, then inside the best groups.

    A row's k largest lie in the k groups with the largest maxima, so selection runs over G / 32 maxima and 32 k values
    instead of G.
    """
    group = 32
    whole = scores.shape[1] // group * group
    if whole // group <= 4 * k:
        return scores.topk(k, dim=1)
    blocks = scores[:, :whole].reshape(len(scores), -1, group)
    best = blocks.amax(dim=2).topk(k, dim=1, sorted=False).indices
    inside = blocks.gather(1, best[..., None].expand(-1, -1, group)).flatten(1)
    position = (best[..., None] * group + torch.arange(group)).flatten(1)
    rest = torch.arange(whole, scores.shape[1]).expand(len(scores), -1)
    values, chosen = torch.cat([inside, scores[:, whole:]], dim=1).topk(k, dim=1)
    return values, torch.cat([position, rest], dim=1).gather(1, chosen)
