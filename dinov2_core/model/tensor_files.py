"""Tensors from and to files: safetensors and torch's zip, read without running anything a file brings along.

What the tensors are called, and which model they make, does not belong here.
"""

from __future__ import annotations

import json
import os
import pickle
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from dinov2_core.errors import UserError

_TODO = "check that the download or copy is complete"


def read(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The content of a weight file on the CPU, and the metadata of its header.

    Returns:
        ``(content, metadata)``. ``content`` is what was saved: tensors by name, or for torch's files possibly nested
        dictionaries. ``metadata`` is empty for torch's files, which have none.

    Raises:
        UserError: unreadable, damaged, not a weight file, or a pickle that would run code.
    """
    where = str(path)
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise UserError(f"cannot read the weights ({error.strerror})", where=where, todo="check the path") from error
    # The content tells: names end in .bin, .pt, .pth and .ckpt for the same thing.
    if start[8:9] == b"{":
        return _read_safetensors(path, int.from_bytes(start[:8], "little"))
    if start[:2] == b"PK" or start[:1] == b"\x80":
        return _read_torch(path), {}
    raise UserError(
        "not a weight file: neither safetensors nor torch's format", where=where, todo="give a .safetensors or .pth"
    )


def _read_safetensors(path: Path, length: int) -> tuple[dict[str, Any], dict[str, str]]:
    try:
        tensors = safetensors.torch.load_file(path)
        with path.open("rb") as file:
            header = json.loads(file.read(8 + length)[8:])
    except (SafetensorError, ValueError) as error:
        raise UserError(f"not a safetensors file ({error})", where=str(path), todo=_TODO) from error
    return dict(tensors), header.get("__metadata__", {})


def _read_torch(path: Path) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # A damaged file can fail anywhere inside torch's reader.
        raise _refused(error, path) from error
    if not isinstance(content, Mapping):
        raise UserError(
            f"the file holds a {type(content).__name__}, not tensors by name", where=str(path), todo="give a state dict"
        )
    return dict(content)


def _refused(error: Exception, path: Path) -> UserError:
    lines = [line.strip() for line in str(error).splitlines()] or [""]
    # Of torch's long message, the line that names what the file wanted to have built or called.
    culprits = [line for line in lines if "GLOBAL" in line or "Unsupported" in line]
    if isinstance(error, pickle.UnpicklingError) and culprits:
        return UserError(
            f"the file holds more than tensors and was not opened ({culprits[0]}): loading it could run code",
            where=str(path),
            todo="save only the state dict, best as safetensors",
        )
    return UserError(f"the file is damaged ({type(error).__name__}: {lines[0]})", where=str(path), todo=_TODO)


def write(path: Path, fill: Callable[[Path], object]) -> None:
    """Let ``fill`` write a file beside ``path`` and put it in place in one step.

    Raises:
        UserError: the place cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            made = Path(folder) / path.name
            fill(made)
            for extra in sorted(Path(folder).iterdir()):
                if extra != made:
                    os.replace(extra, path.parent / extra.name)
            os.replace(made, path)
    except OSError as error:
        raise UserError(f"cannot write ({error.strerror})", where=str(path), todo="check the path") from error


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """:func:`write` of a safetensors file; tensors are made contiguous, each in memory of its own."""
    own = {k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in tensors.items()}
    write(path, lambda made: safetensors.torch.save_file(own, made, metadata=dict(metadata) if metadata else None))
