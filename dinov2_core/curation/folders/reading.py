"""Items of an image set with whatever is wrong with them: nothing here raises for a file's content.

Decoding is in ``images/decode``; whole sets that must be sound are read by ``images/sets``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import fsspec
import pyarrow.parquet as pq

from dinov2_core import config
from dinov2_core.errors import UserError
from dinov2_core.images.sets import MAX_BYTES, ImageSet, files_of, image_column, place_of, printable

_FEWEST, _PARTS = 16, 64
CONTAINERS = (".tar", ".parquet")


@dataclass(frozen=True)
class Read:
    """``path`` relative to the set, as valid text; ``data`` the encoded bytes; ``reason`` where they cannot be had."""

    path: str
    data: bytes
    reason: str = ""


def groups(uri: str, size: int) -> tuple[list[list[str]], str]:
    """File names in groups to be read apart, and a digest of what is there (names, sizes, times of change).

    A group has ``size`` files at most; a small set is cut finer, so that progress shows and little is lost with a run
    that is killed.

    Raises:
        UserError: nothing there, no image, or a mixture of kinds.
    """
    if not uri:
        raise UserError("no set of images is named", todo="give a folder, tars or Parquet files")
    fs, base, names = files_of(uri)
    found = ImageSet(uri).groups(min(size, max(_FEWEST, len(names) // _PARTS)))
    if found[0][0].endswith(".parquet"):
        _check_column(fs, base, found[0][0])
    about = fs.find(base, detail=True)
    stamps = []
    for name in names:
        info = about.get(f"{base}/{name}" if base else name, {})
        stamps.append((printable(name), info.get("size"), str(info.get("mtime", info.get("ETag", "")))))
    return found, config.digest([uri, stamps])


def _check_column(fs: fsspec.AbstractFileSystem, base: str, name: str) -> None:
    """One file stands for all: a column that is named otherwise is a mistake to mend, and not damage."""
    path = f"{base}/{name}" if base else name
    try:
        with fs.open(path, "rb") as file:
            columns = pq.read_schema(file).names
    except (OSError, ValueError):
        return
    image_column(columns, path)


def read(uri: str, names: list[str]) -> Iterator[Read]:
    """The items of one group. A container that breaks off keeps what was read of it and adds a row for itself."""
    fs, base = place_of(uri)
    source = ImageSet(uri, labels="none")
    for name in names:
        try:
            if name.endswith(CONTAINERS):
                for item in source.read([name]):
                    large = len(item.data) > MAX_BYTES
                    yield Read(printable(item.key), b"" if large else item.data, "too large" if large else "")
                continue
            path = f"{base}/{name}" if base else name
            if int(fs.size(path) or 0) > MAX_BYTES:
                yield Read(printable(name), b"", "too large")
            else:
                yield Read(printable(name), fs.cat_file(path))
        except UserError:
            yield Read(printable(name), b"", "damaged container")
        except OSError:
            yield Read(printable(name), b"", "unreadable")


def fetch(uri: str, paths: set[str], names: list[str]) -> dict[str, bytes]:
    """The bytes of the items ``paths``, out of the files ``names`` of the set; a container is read once."""
    wanted = [n for n in names if _holds(printable(n), paths)]
    return {item.path: item.data for item in read(uri, wanted) if item.path in paths}


def _holds(name: str, paths: set[str]) -> bool:
    return any(path.startswith(f"{name}/") for path in paths) if name.endswith(CONTAINERS) else name in paths
