"""Images to patch tokens."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class PatchEmbed(nn.Module):
    """``[B, C, H, W] → [B, H/p · W/p, D]``; key ``proj``, a convolution whose stride is its kernel."""

    def __init__(self, patch: int, channels: int, dim: int) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Conv2d(channels, dim, kernel_size=patch, stride=patch)

    def forward(self, images: Tensor) -> Tensor:
        b, c, h, w = images.shape
        p = self.patch
        if h % p or w % p:
            raise ValueError(f"image of {h} × {w} pixels: both sides must be multiples of the patch size {p}")
        # A stride equal to the kernel makes the convolution one matrix product; on CPUs that is several times faster.
        rows, columns = h // p, w // p
        patches = images.reshape(b, c, rows, p, columns, p).permute(0, 2, 4, 1, 3, 5)
        return F.linear(patches.reshape(b, rows * columns, c * p * p), self.proj.weight.flatten(1), self.proj.bias)
