"""ONNX: a backbone as one graph with any batch size and any image size whose sides are multiples of the patch.

Input ``images [B, C, H, W]``, float32, normalised. Outputs ``cls [B, D]``, ``registers [B, R, D]`` (where there are
any) and ``patches [B, H/p · W/p, D]``, after the last norm. Running a graph does not belong here.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinov2_core.errors import UserError
from dinov2_core.model.block import Block
from dinov2_core.model.position import interpolate_by_matrices
from dinov2_core.model.vision_transformer import VisionTransformer

OPSETS = (18, 23)
"""The first and last opset that is written. 18 is the exporter's own; what runs graphs knows it since 2023."""

_ONE_FILE = 1 << 30
"""Bytes of weights above which they go to a file of their own: a graph's file ends at 2 GiB."""


class Graph(nn.Module):
    """The same function as the backbone in evaluation mode, without packing and without guards on sizes."""

    def __init__(self, backbone: VisionTransformer) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """``[B, C, H, W]`` → ``cls, registers, patches``; no ``registers`` where there are none."""
        model, config = self.backbone, self.backbone.config
        projection = model.patch_embed.proj
        grid = F.conv2d(images, projection.weight, projection.bias, stride=config.patch)
        rows = torch.arange(grid.shape[2], device=images.device)
        columns = torch.arange(grid.shape[3], device=images.device)
        positions = interpolate_by_matrices(
            model.pos_embed, rows, columns, offset=config.pos_offset, antialias=config.pos_antialias
        )
        b = images.shape[0]
        parts = [(model.cls_token + positions[:, :1]).expand(b, -1, -1)]
        if model.register_tokens is not None:
            parts.append(model.register_tokens.expand(b, -1, -1))
        x = torch.cat([*parts, grid.flatten(2).transpose(1, 2) + positions[:, 1:]], dim=1)
        for block in model.blocks:
            x = _block(cast("Block", block), x)
        x = model.norm(x)
        first = 1 + config.registers
        registers = (x[:, 1:first],) if config.registers else ()
        return x[:, 0], *registers, x[:, first:]


def _block(block: Block, x: Tensor) -> Tensor:
    attention, (b, n, d) = block.attn, x.shape
    qkv = attention.qkv(block.norm1(x)).view(b, n, 3, attention.heads, d // attention.heads)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, d)
    x = x + block.ls1(attention.proj(attended))
    return x + block.ls2(block.mlp(block.norm2(x)))


def write(backbone: VisionTransformer, path: Path, *, note: str, opset: int = OPSETS[0]) -> None:
    """Write the graph to ``path``, with ``note`` as its metadata property ``dinov2``.

    Weights of more than 1 GiB lie in ``PATH.data`` beside it.

    Raises:
        UserError: an opset that is not written, or the exporter is not installed.
    """
    if not OPSETS[0] <= opset <= OPSETS[1]:
        raise UserError(f"opset {opset}", where="onnx", todo=f"choose one from {OPSETS[0]} to {OPSETS[1]}")
    try:
        import onnxscript  # noqa: F401 - torch's exporter needs it and says so in the middle of its work
    except ImportError as error:
        raise UserError("the ONNX exporter is not installed", where="onnx", todo="pip install onnxscript") from error
    config = backbone.config
    # Not the stored grid, not square, more than one image: no number in the graph may come from the example's size.
    side = config.patch
    images = torch.zeros(2, config.channels, 3 * side, 5 * side, device=backbone.pos_embed.device)
    size = sum(p.numel() * p.element_size() for p in backbone.parameters())
    program = torch.onnx.export(
        Graph(backbone).eval(),
        (images,),
        input_names=["images"],
        output_names=["cls", *(["registers"] if config.registers else []), "patches"],
        dynamic_shapes={"images": {0: "batch", 2: "height", 3: "width"}},
        opset_version=opset,
        dynamo=True,
        verbose=False,
    )
    assert program is not None, "the dynamo exporter returns a program"
    program.model.metadata_props["dinov2"] = note
    program.save(path, external_data=size > _ONE_FILE)
