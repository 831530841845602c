"""Weight files: a backbone in safetensors with its configuration in the header. Loading is strict.

One file is enough to build and run the model: shape and preprocessing travel with the tensors. Equal weights give
equal bytes. Foreign formats (hub files, transformers, timm) do not belong here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from dinov2_core import config
from dinov2_core.errors import UserError
from dinov2_core.model.preprocessing import Preprocessing
from dinov2_core.model.vision_transformer import VisionTransformer, VitConfig

_KEY = "dinov2"
_TODO = "give a file that this pipeline wrote"


def describe(backbone: VisionTransformer, preprocessing: Preprocessing) -> dict[str, object]:
    """The configuration that ships with the weights, as plain values."""
    return {"model": config.to_plain(backbone.config), "preprocessing": config.to_plain(preprocessing)}


def to_bytes(backbone: VisionTransformer, preprocessing: Preprocessing) -> bytes:
    """The file's content."""
    tensors = {k: v.detach().float().cpu().contiguous() for k, v in backbone.state_dict().items()}
    # One metadata key only: the order of several is not defined.
    return safetensors.torch.save(tensors, metadata={_KEY: config.canonical_json(describe(backbone, preprocessing))})


def from_bytes(data: bytes, *, where: str = "weights") -> tuple[VisionTransformer, Preprocessing]:
    """The backbone, in evaluation mode, and its preprocessing.

    Raises:
        UserError: not such a file, or keys missing, unexpected or of another shape (all listed).
    """
    try:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        tensors = safetensors.torch.load(data)
    except (SafetensorError, ValueError) as error:
        raise UserError(
            f"not a safetensors file ({error})", where=where, todo="give a file this pipeline wrote"
        ) from error
    note = header.get("__metadata__", {}).get(_KEY)
    if note is None:
        raise UserError("the file does not state its model", where=where, todo=_TODO)
    stated = json.loads(note)
    backbone = VisionTransformer(config.build(VitConfig, stated["model"], where=where))
    load_strict(backbone, tensors, where=where)
    return backbone.eval(), config.build(Preprocessing, stated["preprocessing"], where=where)


def load(path: str | Path) -> tuple[VisionTransformer, Preprocessing]:
    """:func:`from_bytes` of a local file."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(
            f"cannot read the weights ({error.strerror})", where=str(path), todo="check the path"
        ) from error
    return from_bytes(data, where=str(path))


def load_strict(module: nn.Module, tensors: Mapping[str, Tensor], *, where: str) -> None:
    """Load all of ``tensors`` into all of ``module``, or raise with every difference."""
    own = module.state_dict()
    missing, unexpected = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    shapes = [
        f"{k} is {tuple(tensors[k].shape)}, not {tuple(own[k].shape)}"
        for k in sorted(own.keys() & tensors.keys())
        if own[k].shape != tensors[k].shape
    ]
    problems = [*_listed("missing", missing), *_listed("unexpected", unexpected), *_listed("other shape", shapes)]
    if problems:
        raise UserError("; ".join(problems), where=where, todo="give a checkpoint of the same architecture")
    module.load_state_dict(dict(tensors), strict=True)


def _listed(what: str, names: Iterable[str]) -> list[str]:
    names = list(names)
    return [f"{len(names)} {what}: {', '.join(names)}"] if names else []
