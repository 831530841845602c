"""Hugging Face folders of ``Dinov2Model`` and ``Dinov2WithRegistersModel``: tensors, config and preprocessing.

Names in files are those of the released folders; the newer names inside transformers 5 are read too. Nothing here
imports transformers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dinov2_core.errors import UserError
from dinov2_core.model.preprocessing import Preprocessing
from dinov2_core.model.vision_transformer import VisionTransformer, VitConfig

MODEL_TYPES = {"dinov2": "Dinov2Model", "dinov2_with_registers": "Dinov2WithRegistersModel"}
"""``model_type`` in config.json, and the class that it stands for."""

_OWN = "dinov2_pipeline"
"""The key of config.json under which our own configuration travels, so that nothing is lost on the way back."""

_NAMES = (
    ("patch_embeddings.projection.", "patch_embed.proj."),
    ("position_embeddings", "pos_embed"),
    (".attention.output.dense.", ".attn.proj."),
    (".attention.o_proj.", ".attn.proj."),
    (".layer_scale1.lambda1", ".ls1.gamma"),
    (".layer_scale2.lambda1", ".ls2.gamma"),
    (".mlp.weights_in.", ".mlp.w12."),
    (".mlp.weights_out.", ".mlp.w3."),
    (".mlp.down_proj.", ".mlp.w3."),
)
_JOINED = {
    ".attn.qkv.": (
        (".attention.attention.query.", ".attention.attention.key.", ".attention.attention.value."),
        (".attention.q_proj.", ".attention.k_proj.", ".attention.v_proj."),
    ),
    ".mlp.w12.": ((".mlp.gate_proj.", ".mlp.up_proj."),),
}
"""What is one matrix with us and several with them, in the order in which they are stacked."""


def to_official(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under the official names; names that are not theirs stay, to be found unexpected."""
    made: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        joined = _join(name, tensors)
        if joined is None:
            made[_official_name(name)] = tensor
        elif joined[1] is not None:
            made[_official_name(joined[0])] = joined[1]
    if "cls_token" in made:
        # A folder with use_mask_token false has none; zeros are what training starts from.
        made.setdefault("mask_token", torch.zeros_like(made["cls_token"][0]))
    return made


def _join(name: str, tensors: Mapping[str, Tensor]) -> tuple[str, Tensor | None] | None:
    """``(our name, the stack)`` for the first part of a stack, ``(…, None)`` for the others, None elsewhere."""
    for ours, spellings in _JOINED.items():
        for parts in spellings:
            for part in parts:
                names = [name.replace(part, other) for other in parts]
                if part in name and all(n in tensors for n in names):
                    stacked = torch.cat([tensors[n] for n in names]) if part == parts[0] else None
                    return name.replace(part, ours), stacked
    return None


def _official_name(name: str) -> str:
    name = re.sub(r"^embeddings\.", "", name)
    name = re.sub(r"^encoder\.layer\.", "blocks.", name)
    name = re.sub(r"^layernorm\.", "norm.", name)
    for theirs, ours in _NAMES:
        name = name.replace(theirs, ours)
    return name


def from_official(backbone: VisionTransformer) -> dict[str, Tensor]:
    """The tensors of ``model.safetensors``; LayerScale is ones where the backbone has none."""
    made: dict[str, Tensor] = {}
    for name, value in backbone.state_dict().items():
        made |= _their(name, value.detach())
    for index in range(backbone.config.depth if backbone.config.layer_scale is None else 0):
        for scale in (1, 2):
            made[f"encoder.layer.{index}.layer_scale{scale}.lambda1"] = torch.ones(backbone.config.dim)
    return made


def _their(name: str, value: Tensor) -> dict[str, Tensor]:
    block = re.match(r"blocks\.(\d+)\.(.*)", name)
    if block is None:
        plain = {"pos_embed": "position_embeddings"}.get(name, name)
        plain = plain.replace("patch_embed.proj.", "patch_embeddings.projection.")
        return {f"layernorm.{name[5:]}" if name.startswith("norm.") else f"embeddings.{plain}": value}
    rest, before = f".{block[2]}", f"encoder.layer.{block[1]}"
    if rest.startswith(".attn.qkv."):
        parts = _JOINED[".attn.qkv."][0]
        thirds = value.chunk(3)
        return {before + rest.replace(".attn.qkv.", p): t for p, t in zip(parts, thirds, strict=True)}
    for theirs, ours in _NAMES:
        if ours in rest:
            return {before + rest.replace(ours, theirs): value}
    return {before + rest: value}


def read_config(stated: Mapping[str, Any], *, where: str) -> VitConfig:
    """The shape that a ``config.json`` describes.

    Positions are interpolated as transformers does it, so that features are the same at every size: by size, with
    antialiasing only where there are registers.

    Raises:
        UserError: another model, or a variant of this one that we do not build.
    """
    kind = stated.get("model_type")
    if kind not in MODEL_TYPES:
        raise UserError(
            f"config.json describes model type {kind!r}", where=where, todo=f"give one of {', '.join(MODEL_TYPES)}"
        )
    ours = {"hidden_act": "gelu", "layer_norm_eps": 1e-6, "qkv_bias": True}
    other = [f"{k} {stated[k]!r} (not {v!r})" for k, v in ours.items() if stated.get(k, v) != v]
    if other:
        raise UserError(f"config.json asks for {', '.join(other)}", where=where, todo="give a released DINOv2 variant")
    registers = stated.get("num_register_tokens", 4) if kind == "dinov2_with_registers" else 0
    try:
        made = VitConfig(
            dim=stated.get("hidden_size", 768),
            depth=stated.get("num_hidden_layers", 12),
            heads=stated.get("num_attention_heads", 12),
            patch=_one(stated.get("patch_size", 16 if registers else 14)),
            image_size=_one(stated.get("image_size", 224)),
            channels=stated.get("num_channels", 3),
            ffn="swiglu" if stated.get("use_swiglu_ffn", False) else "mlp",
            ffn_ratio=float(stated.get("mlp_ratio", 4)),
            registers=registers,
            layer_scale=1e-5,
            **(stated.get(_OWN) or {"pos_offset": 0.0, "pos_antialias": registers > 0}),
        )
        if min(made.dim, made.depth, made.heads, made.patch, made.image_size, made.channels, made.registers + 1) < 1:
            raise ValueError("sizes must be positive")
        return made
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise UserError(f"config.json: {error}", where=where, todo="give a released DINOv2 variant") from error


def _one(side: Any) -> int:
    sides = list(side) if isinstance(side, list | tuple) else [side]
    if not all(isinstance(s, int) and s == sides[0] for s in sides):
        raise ValueError(f"sizes {sides} are not one square's")
    return int(sides[0])


def write_config(config: VitConfig) -> dict[str, Any]:
    """What goes into ``config.json``.

    Raises:
        UserError: transformers has no such model.
    """
    if config.ffn_ratio != int(config.ffn_ratio):
        raise UserError(
            f"transformers knows whole feed-forward ratios only, not {config.ffn_ratio}",
            where="huggingface",
            todo="write safetensors",
        )
    kind = "dinov2_with_registers" if config.registers else "dinov2"
    stated: dict[str, Any] = {
        "architectures": [MODEL_TYPES[kind]],
        "model_type": kind,
        "hidden_size": config.dim,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "mlp_ratio": int(config.ffn_ratio),
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "image_size": config.image_size,
        "patch_size": config.patch,
        "num_channels": config.channels,
        "qkv_bias": True,
        "layerscale_value": config.layer_scale or 1.0,
        "use_swiglu_ffn": config.ffn == "swiglu",
        "dtype": "float32",
        _OWN: {"pos_offset": config.pos_offset, "pos_antialias": config.pos_antialias},
    }
    return stated | ({"num_register_tokens": config.registers} if config.registers else {"use_mask_token": True})


def read_preprocessing(stated: Mapping[str, Any], default: Preprocessing, *, where: str) -> Preprocessing:
    """Size and normalisation of a ``preprocessor_config.json``; our resize rule takes the place of theirs.

    Raises:
        UserError: the file's numbers are none.
    """
    crop = stated.get("crop_size") or stated.get("size")
    size = crop.get("height") or crop.get("shortest_edge") if isinstance(crop, Mapping) else crop
    try:
        red, green, blue = (float(x) for x in stated.get("image_mean") or default.mean)
        std_red, std_green, std_blue = (float(x) for x in stated.get("image_std") or default.std)
        return Preprocessing(int(size or default.size), (red, green, blue), (std_red, std_green, std_blue))
    except (TypeError, ValueError) as error:
        raise UserError(f"preprocessor_config.json: {error}", where=where, todo="copy the folder again") from error


def write_preprocessing(preprocessing: Preprocessing) -> dict[str, Any]:
    """What goes into ``preprocessor_config.json``: shorter side to the size, centre, normalisation."""
    size = preprocessing.size
    return {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": size},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocessing.mean),
        "image_std": list(preprocessing.std),
    }
