"""The linear heads of dense probes: classes by batch norm and a 1×1 layer, depth by a mean over bins.

Both take :func:`feature_maps.join`'s map. The DPT decoder is in ``dpt.py``, training in ``dense_training.py``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dinov2_core.evaluate.feature_maps import resize


class SegmentationHead(nn.Module):
    """Batch norm, then one linear layer a patch (public reference's linear head). ``[B, C, h, w] → [B, K, h, w]``."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.linear = nn.Conv2d(channels, classes, 1)
        _start(self.linear)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear(self.norm(features))


class BinsHead(nn.Module):
    """Depth as the mean of ``bins`` centres, spread evenly over ``low … high`` (paper, section 7.4; AdaBins).

    Features are enlarged 4 times, a 1×1 layer scores each bin, and scores become shares linearly: ReLU + 0.1, divided
    by their sum. ``[B, C, h, w] → [B, 1, 4h, 4w]`` metres.
    """

    centres: Tensor

    def __init__(self, channels: int, *, low: float, high: float, bins: int = 256, enlarge: int = 4) -> None:
        super().__init__()
        self.enlarge = enlarge
        self.linear = nn.Conv2d(channels, bins, 1)
        _start(self.linear)
        self.register_buffer("centres", torch.linspace(low, high, bins))

    def forward(self, features: Tensor) -> Tensor:
        # A 1×1 layer and a bilinear resize commute (weights of the resize sum to 1): scoring first costs a sixteenth.
        scores = self.linear(features)
        scores = resize(scores, scores.shape[-2] * self.enlarge, scores.shape[-1] * self.enlarge)
        shares = scores.relu() + 0.1
        shares = shares / shares.sum(dim=1, keepdim=True)
        return torch.einsum("bkhw,k->bhw", shares, self.centres)[:, None]


def _start(layer: nn.Conv2d) -> None:
    """Small random weights and no bias."""
    nn.init.normal_(layer.weight, std=0.01)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
