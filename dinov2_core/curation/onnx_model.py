"""ONNX models as this package runs them: found by part name or path, one session a process, one thread each.

What a model's input and output mean belongs to the module that uses it.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from dinov2_core import parts
from dinov2_core.errors import UserError

_MODELS = [name for name, part in parts.PARTS.items() if part.take[0].endswith(".onnx")]


def locate(model: str) -> Path:
    """The file of ``model``: a path, or the name of a part.

    Raises:
        UserError: neither a file nor a part that has been fetched.
    """
    if os.path.isfile(model):
        return Path(model)
    if model in _MODELS:
        return parts.path(model)
    raise UserError("no model file", where=model, todo=f"give a file or one of: {', '.join(_MODELS)}")


@functools.lru_cache(maxsize=16)
def _checksum(path: str, size: int, changed: int) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def checksum(model: str) -> str:
    """sha256 (hex) of the file of ``model``; an unchanged file is read once a process."""
    path = locate(model)
    state = path.stat()
    return _checksum(str(path), state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=8)
def session(path: str, adapt: Callable[[onnx.ModelProto], None] | None = None) -> ort.InferenceSession:
    """The session of the file at ``path``, made once a process; ``adapt`` may change the graph in memory first.

    Raises:
        UserError: no ONNX model, or one that ``adapt`` does not know.
    """
    options = ort.SessionOptions()
    # How threads share a sum changes its last bits, and data must not depend on which process, or where, made it.
    options.intra_op_num_threads, options.inter_op_num_threads = 1, 1
    options.log_severity_level = 3
    source: str | bytes = path
    try:
        if adapt is not None:
            model = onnx.load(path)
            adapt(model)
            source = model.SerializeToString()
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        # Both libraries raise kinds of their own for what a file may hold.
        raise UserError(f"no usable ONNX model ({_line(error)})", where=path, todo="check the file") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def free_axes(model: onnx.ModelProto, axes: Sequence[int]) -> None:
    """Forget the sizes that the graph states for ``axes`` of its pictures, where its layers would take any."""
    weights = {w.name for w in model.graph.initializer}
    for value in [*(v for v in model.graph.input if v.name not in weights), *model.graph.output]:
        dims = value.type.tensor_type.shape.dim
        for axis in axes:
            if axis < len(dims):
                dims[axis].dim_param = f"{value.name}_{axis}"
    # What it states about the inside contradicts a free input.
    del model.graph.value_info[:]


def run(model: ort.InferenceSession, batch: np.ndarray) -> list[np.ndarray]:
    """All outputs for one input array."""
    outputs: list[np.ndarray] = model.run(None, {model.get_inputs()[0].name: batch})
    return outputs
