"""Multi-head self-attention over a packed sequence. Which kernel attends is chosen in ``packed.py``."""

from __future__ import annotations

from torch import Tensor, nn

from dinov2_core.model.packed import Attend, Layout, sdpa_by_group


class Attention(nn.Module):
    """``[T, D] → [T, D]``; keys ``qkv``, ``proj``, both with bias."""

    def __init__(self, dim: int, heads: int, *, attend: Attend = sdpa_by_group) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"width {dim} is not a multiple of {heads} heads")
        self.heads, self.attend = heads, attend
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        qkv = self.qkv(x).view(x.shape[0], 3, self.heads, x.shape[1] // self.heads)
        return self.proj(self.attend(qkv, layout))
