"""The shapes of a backbone and its heads, read from tensors under the official names."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from torch import Tensor

from dinov2_core.errors import UserError
from dinov2_core.model.feed_forward import swiglu_width
from dinov2_core.model.heads import HeadConfig
from dinov2_core.model.mismatch import listed
from dinov2_core.model.presets import flavour
from dinov2_core.model.vision_transformer import VitConfig

ESSENTIAL = ("cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.norm1.weight")
"""What the shape cannot be told without."""

MOST_BLOCKS = 1000
"""More are a mistake in a name: the largest released model has 40."""


def infer(
    tensors: Mapping[str, Tensor], *, pos_offset: float, pos_antialias: bool, heads: int | None = None, where: str
) -> VitConfig:
    """The configuration that these tensors fit.

    Only what tensors do not show is asked for: the interpolation of positions, and ``heads`` where a head is not 64
    wide.

    Raises:
        UserError: essential tensors are missing, or no such model has these shapes.
    """
    missing = [k for k in ESSENTIAL if k not in tensors]
    feed = {"mlp.fc1.weight": "mlp", "mlp.w12.weight": "swiglu"}
    found = [name for name in feed if f"blocks.0.{name}" in tensors]
    if not found:
        missing.append("blocks.0.mlp.fc1.weight or blocks.0.mlp.w12.weight")
    if missing:
        raise UserError(
            "; ".join([*listed("missing", missing), *listed("present", sorted(tensors))]),
            where=where,
            todo="give the weights of a vision transformer of the DINOv2 family",
        )
    fed = f"blocks.0.{found[0]}"
    ranks = {"cls_token": 3, "pos_embed": 3, "register_tokens": 3, "patch_embed.proj.weight": 4, fed: 2}
    absurd = [k for k, rank in ranks.items() if k in tensors and (tensors[k].ndim != rank or not tensors[k].numel())]
    if absurd:
        raise _unfit(f"{absurd[0]} of shape {tuple(tensors[absurd[0]].shape)}", where)
    dim = tensors["cls_token"].shape[-1]
    patches = tensors["patch_embed.proj.weight"]
    if patches.shape[2] != patches.shape[3]:
        raise _unfit(f"patch_embed.proj.weight of {tuple(patches.shape)} has no square patches", where)
    patch = patches.shape[-1]
    count = tensors["pos_embed"].shape[-2] - 1
    grid = math.isqrt(max(count, 0))
    if grid < 1 or grid * grid != count:
        raise _unfit(f"pos_embed holds {count + 1} positions: not one and a square grid", where)
    if heads is None:
        if dim % 64:
            raise _unfit(f"width {dim} is not a multiple of 64: heads cannot be counted", where, "give the heads")
        heads = dim // 64
    if heads < 1 or dim % heads:
        raise _unfit(f"width {dim} does not divide into {heads} heads", where, "give the right number of heads")
    ffn = feed[found[0]]
    depth = 1 + max(int(m[1]) for m in (re.match(r"blocks\.(\d+)\.", k) for k in tensors) if m)
    if depth > MOST_BLOCKS:
        raise _unfit(f"{depth} blocks", where)
    return VitConfig(
        dim=dim,
        depth=depth,
        heads=heads,
        patch=patch,
        image_size=grid * patch,
        channels=patches.shape[1],
        ffn=ffn,  # type: ignore[arg-type]
        ffn_ratio=_ffn_ratio(dim, tensors[fed].shape[0], gated=ffn == "swiglu", where=where),
        registers=tensors["register_tokens"].shape[-2] if "register_tokens" in tensors else 0,
        layer_scale=1e-5 if "blocks.0.ls1.gamma" in tensors else None,
        pos_offset=pos_offset,
        pos_antialias=pos_antialias,
    )


def of_training_state(
    state: Mapping[str, Tensor], *, heads: int | None = None, where: str = "weights"
) -> tuple[VitConfig, HeadConfig | None, HeadConfig | None]:
    """``(backbone, DINO head, iBOT head)`` of what ``weights.load_training_state`` gives; None for what is absent.

    Raises:
        UserError: as :func:`infer`, or a head is incomplete.
    """
    backbone = {k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")}
    model = infer(backbone, heads=heads, where=where, **flavour("register_tokens" in backbone))  # type: ignore[arg-type]
    return model, _head(state, "dino_head", where), _head(state, "ibot_head", where)


def _head(state: Mapping[str, Tensor], name: str, where: str) -> HeadConfig | None:
    if not any(k.startswith(f"{name}.") for k in state):
        return None
    first, last = f"{name}.mlp.0.weight", f"{name}.last_layer.weight_v"
    missing = listed("missing", [k for k in (first, last) if k not in state])
    if missing:
        raise _unfit(missing[0], where, "give a head of three layers and weight-normed prototypes")
    prototypes, bottleneck = state[last].shape
    return HeadConfig(prototypes=prototypes, hidden=state[first].shape[0], bottleneck=bottleneck)


def ratio(dim: int, units: int) -> float:
    """The ratio with ``int(dim · ratio) == units``, so the next number up where the quotient rounds down."""
    return units / dim if int(dim * (units / dim)) == units else math.nextafter(units / dim, math.inf)


def _ffn_ratio(dim: int, rows: int, *, gated: bool, where: str) -> float:
    if not gated:
        return ratio(dim, rows)
    width = rows // 2
    # Several ratios give one width; the family's own comes first.
    for tried in (4.0, ratio(dim, width * 3 // 2)):
        if 2 * swiglu_width(int(dim * tried)) == rows:
            return tried
    raise _unfit(f"a SwiGLU of {width} units: only multiples of 8 are known", where)


def _unfit(what: str, where: str, todo: str = "give weights of the DINOv2 family") -> UserError:
    return UserError(what, where=where, todo=todo)
