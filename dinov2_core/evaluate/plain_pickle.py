"""A reader of pickles that hold plain data only: numbers, strings, containers and numpy arrays.

The ground truth of revisited Oxford and Paris comes as a pickle, and a pickle is a program. This reader admits five
constructors (numpy's array, dtype and scalar, Latin-1 text, empty bytes) and refuses every other name before it is
imported. Weights never come this way. A JSON file with the same content needs none of this.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from dinov2_core.errors import UserError

MAX_BYTES = 64 << 20
"""The official ground-truth files are below 1 MB."""

_NUMPY = ("numpy.core.multiarray", "numpy._core.multiarray")


def load(path: Path) -> Any:
    """The object in ``path``.

    Raises:
        UserError: too large, damaged, or it asks for anything but plain data.
    """
    todo = "take the file from the data set's authors, or give the same content as JSON"
    if path.stat().st_size > MAX_BYTES:
        raise UserError(f"larger than {MAX_BYTES >> 20} MB", where=str(path), todo=todo)
    try:
        return _Reader(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except UserError as error:
        raise UserError(error.what, where=str(path), todo=todo) from error
    except Exception as error:  # the unpickler raises any kind of exception on damaged bytes
        raise UserError(f"not a readable pickle ({type(error).__name__})", where=str(path), todo=todo) from error


class _Reader(pickle.Unpickler):
    """Looks no name up but those below."""

    def find_class(self, module: str, name: str) -> Any:
        if module in _NUMPY and name == "_reconstruct":
            return _empty_array
        if module in _NUMPY and name == "scalar":
            return _scalar
        if module == "numpy" and name == "ndarray":
            return np.ndarray
        if module == "numpy" and name == "dtype":
            return _dtype
        if module == "_codecs" and name == "encode":
            return _latin1
        if module in ("__builtin__", "builtins") and name == "bytes":
            return _no_bytes
        raise UserError(f"the pickle asks for {module}.{name}, which is not plain data")

    def persistent_load(self, pid: Any) -> Any:
        raise UserError("the pickle asks for an object outside itself")


def _empty_array(kind: type, shape: tuple[int, ...], code: Any) -> np.ndarray:
    # What numpy writes is always an empty array, filled by the state that follows.
    if kind is not np.ndarray or tuple(shape) != (0,):
        raise UserError("the pickle builds an array in an unknown way")
    return np.ndarray((0,), dtype="b")


def _dtype(code: Any, *flags: Any) -> np.dtype:
    if not isinstance(code, str) or np.dtype(code).kind not in "biufcSUO":
        raise UserError("the pickle holds an array of an unknown type")
    return np.dtype(code)


def _scalar(dtype: np.dtype, data: bytes) -> Any:
    if dtype.hasobject:
        raise UserError("the pickle holds a scalar of objects")
    return np.frombuffer(data if isinstance(data, bytes) else data.encode("latin1"), dtype)[0]


def _no_bytes() -> bytes:
    # How old protocols write the content of an empty array.
    return b""


def _latin1(text: str, codec: str) -> bytes:
    if codec not in ("latin1", "latin-1"):
        raise UserError(f"the pickle asks for the codec {codec!r}")
    return text.encode("latin1")
