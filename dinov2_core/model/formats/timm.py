"""timm's ``vit_*_patch14[_reg4]_dinov2``: the same tensors under slightly other names.

timm keeps no mask token. Models with registers keep no position for the class token (it is added to the token), and
the feed-forward layers of SwiGLU are ``fc1``, ``fc2``. Positions are interpolated by size with antialiasing in all of
them. Files of other timm architectures do not belong here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dinov2_core.model import shape
from dinov2_core.model.feed_forward import swiglu_width
from dinov2_core.model.vision_transformer import VisionTransformer, VitConfig

FLAVOUR: dict[str, Any] = {"pos_offset": 0.0, "pos_antialias": True}
"""How timm interpolates positions (``dynamic_img_size=True``, and when it loads weights at another size)."""


def recognises(tensors: Mapping[str, Tensor]) -> bool:
    """Whether this is timm's naming: no mask token, and nothing that only the official naming has."""
    if "reg_token" in tensors:
        return True
    official = ("mask_token", "register_tokens", "backbone.")
    return not any(k.startswith(official) or ".mlp.w12." in k for k in tensors)


def to_official(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """timm's tensors under the official names; the mask token is zeros, as before any training."""
    made: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        gate, value = name.replace(".fc1_x.", ".fc1_g."), name.replace(".fc1_g.", ".fc1_x.")
        if gate == value or gate not in tensors or value not in tensors:
            made[_official_name(name, tensors)] = tensor
        elif name == gate:
            made[name.replace(".fc1_g.", ".w12.")] = torch.cat([tensor, tensors[value]])
    if "reg_token" in made:
        made["register_tokens"] = made.pop("reg_token")
        if "pos_embed" in made:
            # The class token already holds its position.
            positions = made["pos_embed"]
            made["pos_embed"] = torch.cat([torch.zeros_like(positions[:, :1]), positions], dim=1)
    if "cls_token" in made:
        made["mask_token"] = torch.zeros_like(made["cls_token"][0])
    return made


def _official_name(name: str, tensors: Mapping[str, Tensor]) -> str:
    layer = re.match(r"(blocks\.\d+\.mlp)\.fc[12]\.", name)
    if layer is None or not _gated(layer[1], tensors):
        return name
    return name.replace(".fc1.", ".w12.").replace(".fc2.", ".w3.")


def _gated(layer: str, tensors: Mapping[str, Tensor]) -> bool:
    """Whether the second linear layer takes half of what the first one gives, or the first is two matrices."""
    first, second = tensors.get(f"{layer}.fc1.weight"), tensors.get(f"{layer}.fc2.weight")
    packed = first is not None and second is not None and first.shape[0] == 2 * second.shape[-1]
    return packed or f"{layer}.fc1_g.weight" in tensors


def from_official(backbone: VisionTransformer) -> dict[str, Tensor]:
    """The tensors that ``timm.create_model(...).load_state_dict(strict=True)`` takes; the mask token is left out."""
    made = {k: v.detach() for k, v in backbone.state_dict().items() if k != "mask_token"}
    if backbone.config.registers:
        made["reg_token"] = made.pop("register_tokens")
        made["cls_token"] = made["cls_token"] + made["pos_embed"][:, :1]
        made["pos_embed"] = made["pos_embed"][:, 1:]
    return {k.replace(".mlp.w12.", ".mlp.fc1.").replace(".mlp.w3.", ".mlp.fc2."): v for k, v in made.items()}


def arguments(config: VitConfig) -> tuple[str, dict[str, Any]]:
    """``(name, keywords)`` with which ``timm.create_model`` builds this shape, without a classifier.

    The released shapes have names of their own; any other is the nearest name with its numbers replaced.
    """
    gated = config.ffn == "swiglu"
    # Only the giant is gated, and no keyword makes another one so.
    size = "giant" if gated else {768: "base", 1024: "large"}.get(config.dim, "small")
    hidden = int(config.dim * config.ffn_ratio)
    keywords: dict[str, Any] = {
        "img_size": config.image_size,
        "patch_size": config.patch,
        "in_chans": config.channels,
        "embed_dim": config.dim,
        "depth": config.depth,
        "num_heads": config.heads,
        "mlp_ratio": shape.ratio(config.dim, 2 * swiglu_width(hidden) if gated else hidden),
        # timm drops arguments that are None; zero means no LayerScale there.
        "init_values": config.layer_scale or 0.0,
        "num_classes": 0,
        "dynamic_img_size": True,
    }
    if config.registers:
        keywords |= {"reg_tokens": config.registers, "no_embed_class": True}
    return f"vit_{size}_patch14{'_reg4' if config.registers else ''}_dinov2", keywords
