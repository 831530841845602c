"""What all adapters share: looking for what a layout demands, and reading files that must not be skipped.

A picture of a test split that cannot be read ends the evaluation, since a score over the others is another score.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dinov2_core.errors import UserError
from dinov2_core.images.decode import Refused, decode

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")


def require(root: Path, *names: str, form: str) -> Path:
    """``root``, after seeing that every one of ``names`` is in it; ``form`` describes the layout in one line.

    Raises:
        UserError: ``root`` or something in it is missing; all that is missing is named.
    """
    if not root.is_dir():
        raise UserError("no such folder", where=str(root), todo=f"expected {form}")
    if missing := [name for name in names if not (root / name).exists()]:
        raise UserError(f"missing: {', '.join(missing)}", where=str(root), todo=f"expected {form}")
    return root


def inside(root: Path, *names: str) -> Path:
    """The first of ``root/name`` that is a folder, else ``root``: people name either."""
    return next((root / name for name in names if (root / name).is_dir()), root)


def lines(path: Path) -> list[str]:
    """Lines that are not empty, stripped; UserError where the file is missing or not text."""
    try:
        return [line.strip() for line in path.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot be read ({type(error).__name__})", where=str(path)) from error


def json_file(path: Path) -> Any:
    """The content of a JSON file; UserError where it is missing or none."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"not a readable JSON file ({error})", where=str(path)) from error


def pictures(folder: Path, *, deep: bool = False) -> list[Path]:
    """Picture files in ``folder`` (and below), sorted by path."""
    found = folder.rglob("*") if deep else folder.iterdir()
    return sorted(path for path in found if path.suffix.lower() in PICTURES and path.is_file())


def present(paths: Iterable[Path], *, what: str) -> None:
    """UserError that counts and names missing files."""
    if missing := [path for path in paths if not path.is_file()]:
        raise UserError(
            f"{len(missing)} {what} missing, the first is {missing[0].name}",
            where=str(missing[0].parent),
            todo="complete the data set: a score over the rest would be another score",
        )


def rgb(path: Path) -> NDArray[np.uint8]:
    """``[H, W, 3]`` uint8, upright.

    Raises:
        UserError: the file is missing or is no whole picture.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError("no such picture", where=str(path), todo="complete the data set") from error
    if path.suffix.lower() in (".pgm", ".ppm"):
        # Not among the formats that untrusted bytes are decoded from.
        return np.asarray(_open(path).convert("RGB"))
    found = decode(data)
    if isinstance(found, Refused):
        raise UserError(
            f"not a whole picture ({found.reason})",
            where=str(path),
            todo="replace the file: test images are not skipped",
        )
    return found.pixels


def raw(path: Path) -> NDArray:
    """The stored numbers of a one-channel picture (palette indices, labels, 16-bit depth): ``[H, W]``.

    Raises:
        UserError: missing, damaged, or several channels.
    """
    values = np.asarray(_open(path))
    if values.ndim != 2:
        raise UserError(f"{values.shape[-1]} channels, 1 expected", where=str(path), todo="give the label file")
    return values


def _open(path: Path) -> Image.Image:
    try:
        image = Image.open(path, formats=("PNG", "PPM", "TIFF"))
        image.load()
    except FileNotFoundError as error:
        raise UserError("no such file", where=str(path), todo="complete the data set") from error
    except Exception as error:
        raise UserError(f"not a whole picture ({type(error).__name__})", where=str(path), todo="replace it") from error
    return image
