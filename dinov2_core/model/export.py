"""Weights out: one backbone as a file or folder that another program opens. The way back is in ``weights.py``."""

from __future__ import annotations

import json
from pathlib import Path

from dinov2_core import config
from dinov2_core.model import tensor_files, weights
from dinov2_core.model.formats import huggingface, onnx, timm
from dinov2_core.model.preprocessing import Preprocessing
from dinov2_core.model.vision_transformer import VisionTransformer


def to_safetensors(backbone: VisionTransformer, preprocessing: Preprocessing, path: Path) -> None:
    """Write our own format: official names, configuration in the header."""
    tensor_files.write(path, lambda made: made.write_bytes(weights.to_bytes(backbone, preprocessing)))


def to_huggingface(backbone: VisionTransformer, preprocessing: Preprocessing, folder: Path) -> None:
    """Write a folder that ``transformers.AutoModel`` and ``AutoImageProcessor`` open.

    Raises:
        UserError: transformers has no such model, or the place cannot be written.
    """
    stated = huggingface.write_config(backbone.config)
    tensors = huggingface.from_official(backbone)
    tensor_files.write_safetensors(folder / "model.safetensors", tensors, {"format": "pt"})
    _write_json(folder / "preprocessor_config.json", huggingface.write_preprocessing(preprocessing))
    # Last: a folder without it opens nowhere.
    _write_json(folder / "config.json", stated)


def to_timm(backbone: VisionTransformer, path: Path) -> str:
    """Write a safetensors file that timm's ``load_state_dict(strict=True)`` takes.

    Returns:
        The call of ``timm.create_model`` that builds the model for it.
    """
    name, keywords = timm.arguments(backbone.config)
    call = f"timm.create_model({name!r}, {', '.join(f'{k}={v!r}' for k, v in keywords.items())})"
    tensor_files.write_safetensors(path, timm.from_official(backbone), {"timm": call})
    return call


def to_onnx(backbone: VisionTransformer, preprocessing: Preprocessing, path: Path, opset: int = onnx.OPSETS[0]) -> None:
    """Write a graph with dynamic batch and image size (see ``formats/onnx.py``); its metadata states the model."""
    note = config.canonical_json(weights.describe(backbone, preprocessing))
    tensor_files.write(path, lambda made: onnx.write(backbone, made, note=note, opset=opset))


def agrees(backbone: VisionTransformer, program: str) -> bool:
    """Whether ``huggingface`` or ``timm`` interpolates positions as this backbone does.

    Where not, features are equal at the stored grid and slightly different at every other size.
    """
    model = backbone.config
    antialias = program == "timm" or model.registers > 0
    return model.pos_offset == 0 and model.pos_antialias == antialias


def _write_json(path: Path, stated: dict[str, object]) -> None:
    tensor_files.write(path, lambda made: made.write_text(json.dumps(stated, indent=2, sort_keys=True) + "\n"))
