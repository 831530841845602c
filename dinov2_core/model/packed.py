"""Crops of several sizes in one pass: the layout of a packed token sequence, and attention over it.

The tokens of all crops lie one after the other in one ``[T, D]`` tensor, so linear layers and norms see one long
sequence; only attention looks at where a crop begins (paper, section 5, "sequence packing"). Identical to separate
forwards. The layers themselves do not belong here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """Groups of equally long sequences: ``groups[i] = (B_i, N_i)``, sequences and tokens in each."""

    groups: tuple[tuple[int, int], ...]

    @property
    def sizes(self) -> list[int]:
        """Tokens of each group; they sum to T."""
        return [b * n for b, n in self.groups]

    def split(self, tokens: Tensor) -> list[Tensor]:
        """``[T, D]`` → one ``[B_i, N_i, D]`` view a group."""
        parts = tokens.split(self.sizes)
        return [part.view(b, n, tokens.shape[-1]) for part, (b, n) in zip(parts, self.groups, strict=True)]


def pack(groups: Sequence[Tensor]) -> tuple[Tensor, Layout]:
    """``[B_i, N_i, D]`` tensors → one ``[T, D]`` tensor and its layout."""
    layout = Layout(tuple((g.shape[0], g.shape[1]) for g in groups))
    flat = [g.reshape(-1, g.shape[-1]) for g in groups]
    return flat[0] if len(flat) == 1 else torch.cat(flat), layout


Attend = Callable[[Tensor, Layout], Tensor]
"""``(qkv [T, 3, H, d], layout) → [T, H·d]``: attention within each sequence of the layout."""


def sdpa_by_group(qkv: Tensor, layout: Layout) -> Tensor:
    """The back-end that runs everywhere: one ``scaled_dot_product_attention`` a group."""
    heads, dim, dtype = qkv.shape[2], qkv.shape[3], qkv.dtype
    # On CPUs the bfloat16 kernel's backward takes five times as long as the float32 one's; matrix products gain.
    wide = qkv.device.type == "cpu" and dtype == torch.bfloat16
    outputs = []
    qkv = qkv.float() if wide else qkv
    for part, (b, n) in zip(qkv.split(layout.sizes), layout.groups, strict=True):
        q, k, v = part.view(b, n, 3, heads, dim).permute(2, 0, 3, 1, 4).unbind(0)
        with torch.autocast(qkv.device.type, enabled=torch.is_autocast_enabled(qkv.device.type) and not wide):
            attended = F.scaled_dot_product_attention(q, k, v)
        outputs.append(attended.transpose(1, 2).reshape(b * n, heads * dim).to(dtype))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)
