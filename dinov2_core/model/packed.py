"""Crops of several sizes as one packed token sequence: its layout, and what kernels need to know of it.

The tokens of all crops lie one after the other in one ``[T, D]`` tensor, so linear layers and norms see one long
sequence; only attention looks at where a crop begins (paper, section 5, "sequence packing"). Identical to separate
forwards. Attention itself is in ``attention_backends.py``, the layers are elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """Groups of equally long sequences: ``groups[i] = (B_i, N_i)``, sequences and tokens in each."""

    groups: tuple[tuple[int, int], ...]

    @property
    def sizes(self) -> list[int]:
        """Tokens of each group; they sum to T."""
        return [b * n for b, n in self.groups]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each sequence, in order."""
        return [n for b, n in self.groups for _ in range(b)]

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return max(n for b, n in self.groups if b)

    def split(self, tokens: Tensor) -> list[Tensor]:
        """``[T, D]`` → one ``[B_i, N_i, D]`` view a group."""
        parts = tokens.split(self.sizes)
        return [part.view(b, n, tokens.shape[-1]) for part, (b, n) in zip(parts, self.groups, strict=True)]


def pack(groups: Sequence[Tensor]) -> tuple[Tensor, Layout]:
    """``[B_i, N_i, D]`` tensors → one ``[T, D]`` tensor and its layout."""
    layout = Layout(tuple((g.shape[0], g.shape[1]) for g in groups))
    flat = [g.reshape(-1, g.shape[-1]) for g in groups]
    return flat[0] if len(flat) == 1 else torch.cat(flat), layout


def cumulative_lengths(groups: tuple[tuple[int, int], ...], device: str) -> Tensor:
    """Where each sequence of a layout begins, and T at last: int32 ``[sequences + 1]``, made once a layout and device.

    A compiled block takes the tensor as a constant, which is why the arguments are plain values.
    """
    return _cumulative_lengths(groups, device)


@lru_cache(maxsize=64)
def _cumulative_lengths(groups: tuple[tuple[int, int], ...], device: str) -> Tensor:
    # A tensor first made in inference mode could not be saved for a later backward pass.
    with torch.inference_mode(False):
        lengths = torch.tensor([0, *Layout(groups).lengths])
        return lengths.cumsum(0).to(torch.int32).to(device)
