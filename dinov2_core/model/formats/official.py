"""The public reference's files: hub weights of a backbone, and training checkpoints of a teacher with its heads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dinov2_core.errors import UserError
from dinov2_core.model.mismatch import listed

NETWORKS = ("backbone", "dino_head", "ibot_head")
"""The parts of a training checkpoint; ``ibot_head`` is absent where the heads are tied."""


def tensors_of(content: Mapping[str, Any], *, where: str) -> dict[str, Tensor]:
    """The one set of tensors in a file: the file's own, or those under ``teacher``, ``model`` or ``state_dict``.

    Raises:
        UserError: the file holds something else as well, or nothing.
    """
    for wrapper in ("teacher", "model", "state_dict"):
        inner = content.get(wrapper)
        if isinstance(inner, Mapping):
            return tensors_of(inner, where=where)
    other = sorted(str(k) for k, v in content.items() if not isinstance(v, Tensor))
    if other or not content:
        raise UserError(
            "; ".join(listed("not tensors", other)) or "the file holds no tensors",
            where=where,
            todo="give a state dict, or a checkpoint whose 'teacher' is one",
        )
    return {str(k).removeprefix("module."): v for k, v in content.items()}


def is_training_state(tensors: Mapping[str, Tensor]) -> bool:
    """Whether names start with ``backbone.``."""
    return any(k.startswith("backbone.") for k in tensors)


def training_state(tensors: Mapping[str, Tensor], *, where: str) -> dict[str, Tensor]:
    """The same tensors with block chunks undone.

    Raises:
        UserError: there are parts beside backbone and heads.
    """
    other = sorted(k for k in tensors if k.split(".")[0] not in NETWORKS)
    if other:
        raise UserError("; ".join(listed("unexpected", other)), where=where, todo="give a teacher's checkpoint")
    return {_unchunked(k): v for k, v in tensors.items()}


def backbone_of(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of ``backbone``; the heads are left out, anything else stays, to be found unexpected."""
    heads = tuple(f"{name}." for name in NETWORKS[1:])
    return {_unchunked(k.removeprefix("backbone.")): v for k, v in state.items() if not k.startswith(heads)}


def _unchunked(name: str) -> str:
    """``blocks.1.6.norm1.bias`` → ``blocks.6.norm1.bias``: a chunk counts its blocks from the first of all."""
    return re.sub(r"(^|\.)blocks\.\d+\.(\d+)\.", r"\1blocks.\2.", name)
