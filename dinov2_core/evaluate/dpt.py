"""The dense prediction transformer's decoder (arXiv 2103.13413) for frozen backbones.

Four layers become four maps of 4, 2, 1 and ½ times the patch grid, fused from coarse to fine. Class tokens are read
in by projection ("project" readout). What the head is trained on is in ``depth.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinov2_core.evaluate.feature_maps import resize


class Reassemble(nn.Module):
    """One layer's tokens as a map: class token projected in, channels set, grid scaled by ``scale``."""

    def __init__(self, dim: int, channels: int, scale: float) -> None:
        super().__init__()
        self.readout = nn.Sequential(nn.Linear(2 * dim, dim), nn.GELU())
        self.project = nn.Conv2d(dim, channels, 1)
        self.scale: nn.Module = nn.Identity()
        if scale > 1:
            self.scale = nn.ConvTranspose2d(channels, channels, int(scale), stride=int(scale))
        elif scale < 1:
            self.scale = nn.Conv2d(channels, channels, 3, stride=round(1 / scale), padding=1)

    def forward(self, patches: Tensor, cls: Tensor) -> Tensor:
        """``[B, D, h, w]``, ``[B, D]`` → ``[B, channels, scale · h, scale · w]``."""
        both = torch.cat([patches, cls[:, :, None, None].expand_as(patches)], dim=1)
        read = self.readout(both.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.scale(self.project(read))


class ResidualUnit(nn.Module):
    """ReLU, 3×3, ReLU, 3×3, plus the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.one = nn.Conv2d(channels, channels, 3, padding=1)
        self.two = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.two(F.relu(self.one(F.relu(x))))


class Fusion(nn.Module):
    """Adds a finer map to what came from below and doubles the size."""

    def __init__(self, channels: int, *, first: bool) -> None:
        super().__init__()
        self.lateral = None if first else ResidualUnit(channels)
        self.unit = ResidualUnit(channels)
        self.project = nn.Conv2d(channels, channels, 1)

    def forward(self, below: Tensor, finer: Tensor | None = None) -> Tensor:
        if self.lateral is not None and finer is not None:
            below = resize(below, finer.shape[-2], finer.shape[-1]) + self.lateral(finer)
        x = self.unit(below)
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        return self.project(x)


class DptHead(nn.Module):
    """Depth by regression: four ``(patches, cls)`` pairs → ``[B, 1, 16h, 16w]`` metres, at least ``low``."""

    def __init__(self, dim: int, *, low: float, channels: int = 256) -> None:
        super().__init__()
        self.low = low
        widths = [max(dim // 2**n, 8) for n in (3, 2, 1, 0)]
        self.reassemble = nn.ModuleList(Reassemble(dim, w, s) for w, s in zip(widths, (4, 2, 1, 0.5), strict=True))
        self.lateral = nn.ModuleList(nn.Conv2d(w, channels, 3, padding=1, bias=False) for w in widths)
        self.fusion = nn.ModuleList(Fusion(channels, first=n == 0) for n in range(4))
        self.depth = nn.Sequential(
            nn.Conv2d(channels, channels // 2, 3, padding=1),
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
            nn.Conv2d(channels // 2, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 1, 1),
        )
        # Else a head may start, and stay, where the last ReLU passes no gradient.
        final = self.depth[-1]
        assert isinstance(final, nn.Conv2d)
        assert final.bias is not None
        nn.init.constant_(final.bias, 1.0)

    def forward(self, layers: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        maps = [
            lateral(reassemble(*pair))
            for lateral, reassemble, pair in zip(self.lateral, self.reassemble, layers, strict=True)
        ]
        x = self.fusion[0](maps[3])
        for fusion, finer in zip(list(self.fusion)[1:], maps[2::-1], strict=True):
            x = fusion(x, finer)
        return F.relu(self.depth(x)) + self.low
