"""Weights in: one entry for every kind of file, and our own: safetensors with the configuration in the header.

One file of ours is enough to build and run the model: shape and preprocessing travel with the tensors. Equal weights
give equal bytes. Loading is strict. What other programs call the tensors is in ``formats``, writing for them in
``export.py``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from dinov2_core import config
from dinov2_core.errors import UserError
from dinov2_core.model import shape, tensor_files
from dinov2_core.model.formats import huggingface, official, timm
from dinov2_core.model.mismatch import load_strict as load_strict
from dinov2_core.model.preprocessing import Preprocessing
from dinov2_core.model.presets import flavour
from dinov2_core.model.vision_transformer import VisionTransformer, VitConfig

KEY = "dinov2"
"""The metadata key that holds the configuration, in safetensors and ONNX alike."""

_HF_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


def describe(backbone: VisionTransformer, preprocessing: Preprocessing) -> dict[str, object]:
    """The configuration that ships with the weights, as plain values."""
    return {"model": config.to_plain(backbone.config), "preprocessing": config.to_plain(preprocessing)}


def to_bytes(backbone: VisionTransformer, preprocessing: Preprocessing) -> bytes:
    """The content of a safetensors file of ours."""
    tensors = {k: v.detach().float().cpu().contiguous() for k, v in backbone.state_dict().items()}
    # One metadata key only: the order of several is not defined.
    return safetensors.torch.save(tensors, metadata={KEY: config.canonical_json(describe(backbone, preprocessing))})


def from_bytes(data: bytes, *, where: str = "weights") -> tuple[VisionTransformer, Preprocessing]:
    """The backbone, in evaluation mode, and its preprocessing, from what :func:`to_bytes` made.

    Raises:
        UserError: not such a file, or keys missing, unexpected or of another shape (all listed).
    """
    todo = "give a file that this pipeline wrote"
    try:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        tensors = safetensors.torch.load(data)
    except (SafetensorError, ValueError) as error:
        raise UserError(f"not a safetensors file ({error})", where=where, todo=todo) from error
    note = header.get("__metadata__", {}).get(KEY)
    if note is None:
        raise UserError("the file does not state its model", where=where, todo=todo)
    return _of_note(note, tensors, where=where)


def load(path: str | Path, *, heads: int | None = None) -> tuple[VisionTransformer, Preprocessing]:
    """The backbone in ``path``, in evaluation mode and float32, and its preprocessing.

    Recognised by content: files of ours; hub files and training checkpoints of the public reference (``.pth`` or the
    same tensors in safetensors, with and without block chunks); timm's state dicts; Hugging Face folders of Dinov2 and
    Dinov2WithRegisters. Where a file states no configuration the shape is inferred from its tensors.

    Positions are interpolated as the program does it whose format the file has, so features are that program's.

    Args:
        heads: attention heads, for files that state none and whose heads are not 64 wide.

    Raises:
        UserError: unreadable or unsafe, of no known kind, or keys missing, unexpected or of another shape.
    """
    path = Path(path)
    where = str(path)
    if path.is_dir():
        return _load_folder(path)
    content, metadata = tensor_files.read(path)
    tensors = official.tensors_of(content, where=where)
    if KEY in metadata:
        return _of_note(metadata[KEY], tensors, where=where)
    if "embeddings.cls_token" in tensors:
        if (path.parent / "config.json").exists():
            return _load_folder(path.parent)
        raise UserError("tensors of a Hugging Face model without its config.json", where=where, todo="give the folder")
    interpolation: dict[str, Any] = timm.FLAVOUR
    if timm.recognises(tensors):
        tensors = _translate(timm.to_official, tensors, where=where)
    else:
        tensors = official.backbone_of(tensors)
        interpolation = flavour("register_tokens" in tensors)
    made = shape.infer(tensors, heads=heads, where=where, **interpolation)
    return _build(made, tensors, where=where), default_preprocessing(made)


def load_training_state(path: str | Path) -> dict[str, Tensor]:
    """The networks of a training checkpoint, to go on training from or to distil from.

    Returns:
        Tensors named ``backbone.…``, ``dino_head.…`` and, where the heads are not tied, ``ibot_head.…``, as in
        ``train.objective.build_network``. Files that hold a backbone only give only ``backbone.…``.
        :func:`shape.of_training_state` tells the configurations that they fit.

    Raises:
        UserError: as :func:`load`, or names of other parts.
    """
    path = Path(path)
    if path.is_file():
        content, metadata = tensor_files.read(path)
        tensors = official.tensors_of(content, where=str(path))
        if KEY not in metadata and official.is_training_state(tensors):
            return official.training_state(tensors, where=str(path))
    backbone, _ = load(path)
    return {f"backbone.{k}": v for k, v in backbone.state_dict().items()}


def default_preprocessing(model: VitConfig) -> Preprocessing:
    """ImageNet's mean and deviation at 224 pixels, or the nearest smaller size that the model takes."""
    return Preprocessing(min(max(224 // model.patch, 1) * model.patch, model.image_size))


def _of_note(note: str, tensors: Mapping[str, Tensor], *, where: str) -> tuple[VisionTransformer, Preprocessing]:
    try:
        stated = json.loads(note)
        model = config.build(VitConfig, stated["model"], where=where)
        preprocessing = config.build(Preprocessing, stated["preprocessing"], where=where)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"the stated configuration is broken ({error})", where=where, todo="write it again") from error
    return _build(model, tensors, where=where), preprocessing


def _load_folder(folder: Path) -> tuple[VisionTransformer, Preprocessing]:
    found = [folder / name for name in _HF_FILES if (folder / name).exists()]
    if not (folder / "config.json").exists() or not found:
        raise UserError(
            "not a Hugging Face folder: config.json or the weights are missing",
            where=str(folder),
            todo="give a folder with config.json and model.safetensors, or a weight file",
        )
    model = huggingface.read_config(_json(folder / "config.json"), where=str(folder))
    tensors: dict[str, Tensor] = {}
    for path in _parts(found[0]):
        tensors |= official.tensors_of(tensor_files.read(path)[0], where=str(path))
    backbone = _build(model, _translate(huggingface.to_official, tensors, where=str(folder)), where=str(folder))
    preprocessing = default_preprocessing(model)
    if (folder / "preprocessor_config.json").exists():
        stated = _json(folder / "preprocessor_config.json")
        preprocessing = huggingface.read_preprocessing(stated, preprocessing, where=str(folder))
    return backbone, preprocessing


def _translate(
    translate: Callable[[Mapping[str, Tensor]], dict[str, Tensor]], tensors: Mapping[str, Tensor], *, where: str
) -> dict[str, Tensor]:
    try:
        return translate(tensors)
    except (IndexError, RuntimeError) as error:
        # Parts of one matrix with us that do not fit together.
        raise UserError(
            f"tensors of impossible shapes ({error})", where=where, todo="copy the weights again"
        ) from error


def _parts(path: Path) -> list[Path]:
    """The file itself, or the files that an index lists."""
    if path.suffix != ".json":
        return [path]
    return [path.parent / name for name in sorted(set(_json(path).get("weight_map", {}).values()))]


def _json(path: Path) -> dict[str, Any]:
    try:
        stated = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"cannot be read ({error})", where=str(path), todo="copy the folder again") from error
    if not isinstance(stated, dict):
        raise UserError("not a mapping", where=str(path), todo="copy the folder again")
    return stated


def _build(model: VitConfig, tensors: Mapping[str, Tensor], *, where: str) -> VisionTransformer:
    # On the meta device nothing is initialised: a billion random numbers would be drawn only to be overwritten.
    with torch.device("meta"):
        backbone = VisionTransformer(model)
    own = {k: v.to(torch.float32, copy=True) for k, v in tensors.items()}
    load_strict(backbone, own, where=where, assign=True)
    return backbone.eval()
