"""The vision transformer of the DINOv2 family, with the official parameter names.

Token order is class, registers, patches. Registers have no position. Heads, losses and weight files do not belong
here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from dinov2_core.model import position
from dinov2_core.model.block import Block
from dinov2_core.model.layer_scale import LayerScale
from dinov2_core.model.packed import Layout, pack
from dinov2_core.model.patch_embed import PatchEmbed
from dinov2_core.model.stochastic_depth import Kept, draw, used_of


@dataclass(frozen=True)
class VitConfig:
    """The shape of a backbone. ``image_size`` is the size whose patch grid the position embedding stores.

    ``pos_init`` is where the learned positions start: the family's truncated normal, or sines (arXiv 2205.01580), with
    which short trainings see positions from the first step.
    """

    dim: int
    depth: int
    heads: int
    patch: int = 14
    image_size: int = 518
    channels: int = 3
    ffn: Literal["mlp", "swiglu"] = "mlp"
    ffn_ratio: float = 4.0
    registers: int = 0
    layer_scale: float | None = 1e-5
    pos_init: Literal["normal", "sines"] = "normal"
    pos_offset: float = 0.1
    pos_antialias: bool = False

    def __post_init__(self) -> None:
        if self.image_size % self.patch:
            raise ValueError(f"image size {self.image_size} is not a multiple of the patch size {self.patch}")
        if self.dim % self.heads:
            raise ValueError(f"width {self.dim} is not a multiple of {self.heads} heads")


@dataclass(frozen=True)
class Features:
    """What one group of crops comes out as, after the last norm; R registers, N patches."""

    cls: Tensor
    """``[B, D]``"""
    registers: Tensor
    """``[B, R, D]``"""
    patches: Tensor
    """``[B, N, D]``, row by row"""


@dataclass(frozen=True)
class UsedFeatures:
    """What is used of one group of crops, after the last norm."""

    cls: Tensor
    """``[B, D]``"""
    patches: Tensor
    """``[M, D]``, in the order of the ``nonzero()`` of the patches asked for"""


class VisionTransformer(nn.Module):
    """A backbone; ``forward`` takes crops of one size, ``forward_list`` of several in one packed pass."""

    def __init__(self, config: VitConfig, *, drop_path: float = 0.0) -> None:
        """``drop_path`` is the stochastic-depth rate, the same in every block, active in training mode only."""
        super().__init__()
        self.config, self.drop_path = config, drop_path
        grid = config.image_size // config.patch
        dim = config.dim
        self.patch_embed = PatchEmbed(config.patch, config.channels, dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid * grid, dim))
        self.register_tokens = nn.Parameter(torch.zeros(1, config.registers, dim)) if config.registers else None
        self.mask_token = nn.Parameter(torch.zeros(1, dim))
        self.blocks = nn.ModuleList(
            Block(
                dim,
                config.heads,
                ffn=config.ffn,
                hidden=int(dim * config.ffn_ratio),
                layer_scale=config.layer_scale,
            )
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.init_weights()

    def init_weights(self) -> None:
        """Truncated normal of 0.02 for linear layers (and positions), 1e-6 for class and register tokens."""
        if self.pos_embed.is_meta:
            # Nothing to fill, and ``normal_`` would import torch's compiler for it: seconds.
            return
        if self.config.pos_init == "sines":
            with torch.no_grad():
                grid = self.config.image_size // self.config.patch
                self.pos_embed[0, 1:] = position.sines(grid, self.config.dim)
        else:
            nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.normal_(self.cls_token, std=1e-6)
        if self.register_tokens is not None:
            nn.init.normal_(self.register_tokens, std=1e-6)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
            elif isinstance(module, LayerScale):
                nn.init.constant_(module.gamma, module.init)

    def embed(self, images: Tensor, masks: Tensor | None = None) -> Tensor:
        """Tokens before the first block.

        Args:
            images: ``[B, C, H, W]``, normalised.
            masks: ``[B, N]`` bool; True patches become the mask token (before positions are added).

        Returns:
            ``[B, 1 + R + N, D]`` in the parameters' dtype, which the residual stream keeps: float32 under autocast,
            since a branch of 1e-5 is lost when it is added in bfloat16.
        """
        rows, columns = images.shape[-2] // self.config.patch, images.shape[-1] // self.config.patch
        x = self.patch_embed(images)
        if masks is not None:
            x = torch.where(masks[..., None], self.mask_token.to(x.dtype)[None], x)
        positions = position.interpolate(
            self.pos_embed,
            rows,
            columns,
            square=images.shape[-2] == images.shape[-1],
            offset=self.config.pos_offset,
            antialias=self.config.pos_antialias,
        )
        b = x.shape[0]
        parts = [(self.cls_token + positions[:, :1]).expand(b, -1, -1)]
        if self.register_tokens is not None:
            parts.append(self.register_tokens.expand(b, -1, -1))
        return torch.cat([*parts, x + positions[:, 1:]], dim=1)

    def forward_list(self, crops: Sequence[Tensor], masks: Sequence[Tensor | None] | None = None) -> list[Features]:
        """Crops of several sizes as one packed sequence; one result a group, equal to separate calls."""
        x, layout = self._pack(crops, masks)
        drawn = self._draw(layout, x.device)
        for index, block in enumerate(self.blocks):
            x = block(x, layout, drawn[index] if drawn else None)
        return self._features(self.norm(x), layout)

    def forward_used(
        self,
        crops: Sequence[Tensor],
        masks: Sequence[Tensor | None] | None = None,
        patches: Sequence[Tensor | None] | None = None,
    ) -> list[UsedFeatures]:
        """As :meth:`forward_list` for class tokens and some patches, of which alone the last block's output is made.

        Args:
            patches: of each group ``[B, N]`` bool, the patches whose features are wanted; None is none.
        """
        x, layout = self._pack(crops, masks)
        picked = patches or [None] * len(crops)
        tokens, sizes = self._tokens(layout, picked, x.device)
        drawn = self._draw(layout, x.device)
        # Before the blocks: the sizes are waited for on the host.
        used = tuple(used_of(one, tokens, len(x)) for one in drawn[-1]) if drawn else None
        *blocks, last = self.blocks
        for index, block in enumerate(blocks):
            x = block(x, layout, drawn[index] if drawn else None)
        x = self.norm(last(x, layout, drawn[-1] if drawn else None, tokens, used))
        parts = x.split(sizes)
        return [UsedFeatures(cls, some) for cls, some in zip(parts[::2], parts[1::2], strict=True)]

    def forward(self, images: Tensor, masks: Tensor | None = None) -> Features:
        return self.forward_list([images], [masks])[0]

    def last_layers(self, images: Tensor, count: int) -> list[Features]:
        """The outputs of the last ``count`` blocks, each through the final norm (linear and dense probes)."""
        x, layout = pack([self.embed(images)])
        outputs = []
        for index, block in enumerate(self.blocks):
            x = block(x, layout)
            if index >= len(self.blocks) - count:
                outputs += self._features(self.norm(x), layout)
        return outputs

    def _pack(self, crops: Sequence[Tensor], masks: Sequence[Tensor | None] | None) -> tuple[Tensor, Layout]:
        return pack([self.embed(x, m) for x, m in zip(crops, masks or [None] * len(crops), strict=True)])

    def _draw(self, layout: Layout, device: torch.device) -> list[tuple[Kept, Kept]] | None:
        """What each block's two branches keep; None where nothing is dropped."""
        if not (self.training and self.drop_path > 0):
            return None
        drawn = draw(layout, self.drop_path, 2 * len(self.blocks), device)
        return [(drawn.kept(2 * index), drawn.kept(2 * index + 1)) for index in range(len(self.blocks))]

    def _tokens(
        self, layout: Layout, patches: Sequence[Tensor | None], device: torch.device
    ) -> tuple[Tensor, list[int]]:
        """Packed rows of class tokens, then wanted patches, group by group, and how many there are of each."""
        start, rows = 0, []
        first = 1 + self.config.registers
        for (b, n), wanted in zip(layout.groups, patches, strict=True):
            rows.append(start + n * torch.arange(b, device=device))
            if wanted is None:
                rows.append(rows[-1][:0])
            else:
                crop, patch = wanted.nonzero(as_tuple=True)
                rows.append(start + n * crop + first + patch)
            start += b * n
        return torch.cat(rows), [len(one) for one in rows]

    def _features(self, x: Tensor, layout: Layout) -> list[Features]:
        first = 1 + self.config.registers
        return [Features(part[:, 0], part[:, 1:first], part[:, first:]) for part in layout.split(x)]
