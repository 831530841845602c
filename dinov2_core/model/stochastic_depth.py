"""Efficient stochastic depth: which sequences each branch sees, drawn for a whole network at once.

A branch works on a random subset of each group's sequences and is added back scaled, so that the sum keeps its
expectation and what is dropped costs nothing (paper, section 5). The branches do not belong here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dinov2_core.model.packed import Layout


class Kept(NamedTuple):
    """What one branch sees: ``rows [T']`` int64 of the packed tokens, their ``layout``, ``scales [T', 1]``."""

    rows: Tensor
    layout: Layout
    scales: Tensor


@dataclass(frozen=True)
class Draw:
    """Independent subsets of equal size: ``rows [draws, T']``; :meth:`kept` gives the one of a branch."""

    rows: Tensor
    layout: Layout
    scales: Tensor

    def kept(self, branch: int) -> Kept:
        return Kept(self.rows[branch], self.layout, self.scales)


def kept_count(sequences: int, rate: float) -> int:
    """How many of ``sequences`` stay: ``⌊B (1 - rate)⌋``, at least one."""
    return max(int(sequences * (1 - rate)), 1)


def draw(layout: Layout, rate: float, draws: int, device: torch.device) -> Draw:
    """Draw ``draws`` subsets of each group's sequences, uniform among those of :func:`kept_count`, each on its own.

    All at once and on the device: a draw a branch costs a hundred small kernels, or a wait for the host each.
    The sizes are a function of the layout, so a compiled block sees one shape.
    """
    start, rows, groups, scales = 0, [], [], []
    for b, n in layout.groups:
        count = kept_count(b, rate)
        chosen = torch.rand(draws, b, device=device).argsort(dim=1)[:, :count].sort(dim=1).values
        tokens = start + chosen[:, :, None] * n + torch.arange(n, device=device)
        rows.append(tokens.flatten(1))
        scales.append(torch.full((count * n, 1), b / count, device=device))
        groups.append((count, n))
        start += b * n
    return Draw(torch.cat(rows, dim=1), Layout(tuple(groups)), torch.cat(scales))


class Used(NamedTuple):
    """What of a branch's output is used, where only some tokens ``[M]`` of a layer's output are.

    ``within [m]`` int64 are rows of the branch, ``rows [m]`` where they go among the M, ``scales [m, 1]``.
    """

    within: Tensor
    rows: Tensor
    scales: Tensor


def used_of(kept: Kept, tokens: Tensor, total: int) -> Used:
    """The part of ``kept`` that is among ``tokens [M]``, int64 rows of all ``total`` packed tokens."""
    place = tokens.new_full((total,), -1)
    place[tokens] = torch.arange(len(tokens), device=tokens.device)
    at = place[kept.rows]
    within = (at >= 0).nonzero().flatten()
    return Used(within, at[within], kept.scales[within])


def add_scaled(x: Tensor, added: Tensor, kept: Kept | Used) -> Tensor:
    """``x`` with ``added [T', D] · scales`` added at ``kept.rows``; ``[T, D]`` in the dtype of ``x``."""
    return x.index_add(0, kept.rows, (added * kept.scales).to(x.dtype))
