"""Curated and evaluation sets as they come: a folder tree, tar shards, or Parquet with the bytes in a column.

An :class:`ImageSet` yields its items in one order, whatever the file system's; :func:`signature` names its state.
Packing into our own shards, decoding and duplicate handling do not belong here.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

import fsspec
import pyarrow.parquet as pq

from dinov2_core.errors import UserError
from dinov2_core.object_store import filesystem, reaching

Labels = Literal["auto", "folder", "none"]
"""Where labels come from. ``folder``: the first folder's name. ``auto``: that where an image lies in a folder,
the ``.cls`` or ``.txt`` member beside it in a tar, the column ``label`` or ``class`` in Parquet. ``none``: nowhere."""

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
_LABEL_SUFFIXES = (".cls", ".txt")
_BYTES_COLUMNS, _LABEL_COLUMNS, _KEY_COLUMNS = ("image", "bytes", "data"), ("label", "class"), ("key", "name", "path")
_BLOCK = 1 << 20
MAX_BYTES = 512 << 20
"""Of one image; more is not read."""


@dataclass(frozen=True)
class Item:
    """One image: ``key``, its name inside its set; ``data``, the encoded bytes; ``label``, text or None."""

    key: str
    data: bytes
    label: str | None


@dataclass(frozen=True)
class ImageSet:
    """The images at ``uri`` (a path or an fsspec URL of a folder, a tar or a Parquet file).

    A folder may hold images in any depth, or tar shards, or Parquet files, but not a mixture.
    Iterating raises :class:`UserError` where the place is missing, holds no image or cannot be read.
    """

    uri: str
    labels: Labels = "auto"

    def __iter__(self) -> Iterator[Item]:
        found = False
        for names in self.groups():
            for item in self.read(names):
                found = True
                yield item
        if not found:
            raise _empty(self.uri)

    def groups(self, size: int = 1000) -> list[list[str]]:
        """File names in groups to be read apart: a tar or a Parquet file each, or ``size`` image files."""
        _, _, names = files_of(self.uri)
        tars = [n for n in names if n.endswith(".tar")]
        parquets = [n for n in names if n.endswith(".parquet")]
        images = [n for n in names if n.lower().endswith(IMAGE_SUFFIXES)]
        kinds = [kind for kind in (tars, parquets, images) if kind]
        if not kinds:
            raise _empty(self.uri)
        if len(kinds) > 1:
            raise UserError(
                f"a mixture of {len(tars)} tar, {len(parquets)} Parquet and {len(images)} image files",
                where=self.uri,
                todo="point at a folder that holds one kind",
            )
        step = size if images else 1
        return [kinds[0][start : start + step] for start in range(0, len(kinds[0]), step)]

    def read(self, names: list[str]) -> Iterator[Item]:
        """The items of one group."""
        fs, base = place_of(self.uri)
        for name in names:
            path = _join(base, name)
            if name.endswith(".tar"):
                yield from self._from_tar(fs, path, name)
            elif name.endswith(".parquet"):
                yield from self._from_parquet(fs, path, name)
            else:
                in_folder = self.labels == "folder" or (self.labels == "auto" and "/" in name)
                yield Item(name, fs.cat_file(path), _first_folder(name, self.uri) if in_folder else None)

    def _from_tar(self, fs: fsspec.AbstractFileSystem, path: str, name: str) -> Iterator[Item]:
        waiting: dict[str, tuple[str, bytes]] = {}
        labels: dict[str, str] = {}
        try:
            with fs.open(path, "rb") as f, tarfile.open(fileobj=f, mode="r|") as tar:
                for member in tar:
                    if not member.isfile():
                        continue
                    inner = tar.extractfile(member)
                    assert inner is not None
                    # WebDataset: a sample is what shares the name up to the first dot after the last slash.
                    folder, _, file = member.name.rpartition("/")
                    stem, _, suffix = file.partition(".")
                    key = f"{folder}/{stem}" if folder else stem
                    if f".{suffix.lower()}".endswith(IMAGE_SUFFIXES):
                        # A sparse member may claim any size: what is beyond the limit is left where it is.
                        data = inner.read(MAX_BYTES + 1)
                        if self.labels == "none":
                            yield Item(f"{name}/{member.name}", data, None)
                        else:
                            waiting[key] = (member.name, data)
                    elif f".{suffix}".endswith(_LABEL_SUFFIXES):
                        labels[key] = inner.read().decode("utf-8", "replace").strip()
        except (tarfile.TarError, EOFError) as error:
            raise UserError(f"not a readable tar ({error})", where=f"{self.uri}/{name}", todo="replace it") from error
        for key, (member_name, data) in waiting.items():
            label = labels.get(key)
            if label is None and self.labels == "folder":
                label = _first_folder(member_name, self.uri)
            yield Item(f"{name}/{member_name}", data, label)

    def _from_parquet(self, fs: fsspec.AbstractFileSystem, path: str, name: str) -> Iterator[Item]:
        try:
            with fs.open(path, "rb") as f:
                file = pq.ParquetFile(f)
                columns = file.schema_arrow.names
                image = image_column(columns, f"{self.uri}/{name}")
                label = next((c for c in _LABEL_COLUMNS if c in columns), None) if self.labels != "none" else None
                key = next((c for c in _KEY_COLUMNS if c in columns), None)
                number = 0
                for batch in file.iter_batches(batch_size=256):
                    for row in batch.to_pylist():
                        data = row[image]["bytes"] if isinstance(row[image], dict) else row[image]
                        text = None if label is None or row[label] is None else str(row[label])
                        yield Item(f"{name}/{row[key] if key else number}", data or b"", text)
                        number += 1
        except (OSError, ValueError) as error:
            raise UserError(f"not readable ({error})", where=f"{self.uri}/{name}", todo="replace it") from error


def image_column(columns: Sequence[str], where: str) -> str:
    """The column of a Parquet file that holds the bytes.

    Raises:
        UserError: none has a name that says so.
    """
    found = next((c for c in _BYTES_COLUMNS if c in columns), None)
    if found is None:
        raise UserError(
            f"no column of image bytes (one of {', '.join(_BYTES_COLUMNS)}) among {', '.join(columns)}",
            where=where,
            todo="rename the column",
        )
    return found


def address(root: str, uri: str) -> str:
    """``uri`` as it is, or below ``root`` where it is relative."""
    return uri if "://" in uri or uri.startswith("/") else f"{root}/{uri}"


def signature(uri: str) -> str:
    """sha256 (hex) over the sorted names and contents of every file at ``uri``: the set's state, for fingerprints."""
    fs, base, names = files_of(uri)
    total = hashlib.sha256()
    for name in names:
        content = hashlib.sha256()
        with fs.open(_join(base, name), "rb") as f:
            while block := f.read(_BLOCK):
                content.update(block)
        total.update(f"{name}\0{content.hexdigest()}\n".encode("utf-8", "surrogateescape"))
    return total.hexdigest()


def printable(name: str) -> str:
    """``name`` as valid text: a byte that is no UTF-8 becomes ``\\xNN``, so that any file can stand in a table."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def place_of(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """File system and base path of ``uri``, without listing it; a file's base is its folder."""
    fs, base = filesystem(uri)
    base = base.rstrip("/")
    return fs, base.rpartition("/")[0] if fs.isfile(base) else base


def files_of(uri: str) -> tuple[fsspec.AbstractFileSystem, str, list[str]]:
    """``(file system, base path, names of files below it, sorted)``; a file's base is its folder.

    Hidden ones are left out.

    Raises:
        UserError: nothing is there, or it cannot be read.
    """
    try:
        with reaching(uri):
            fs, base = filesystem(uri)
            base = base.rstrip("/")
            if fs.isfile(base):
                parent, _, name = base.rpartition("/")
                return fs, parent, [name]
            paths = fs.find(base) if fs.exists(base) else None
    except (OSError, ValueError, ImportError) as error:
        raise UserError(
            f"cannot be read: {error}", where=uri, todo="check the path, the bucket's name and its credentials"
        ) from error
    if paths is None:
        raise UserError("nothing there", where=uri, todo="check the path, or remove the set from the settings")
    names = sorted(str(p)[len(base) + 1 :] for p in paths)
    return fs, base, [n for n in names if not any(part.startswith(".") for part in PurePosixPath(n).parts)]


def _join(base: str, name: str) -> str:
    return f"{base}/{name}" if base else name


def _first_folder(name: str, uri: str) -> str:
    if "/" not in name:
        raise UserError(f"'{name}' lies in no class folder", where=uri, todo="move it into its class's folder")
    return name.split("/", 1)[0]


def _empty(uri: str) -> UserError:
    kinds = f"images ({' '.join(IMAGE_SUFFIXES)}), tars or Parquet"
    return UserError("no image there", where=uri, todo=f"put {kinds} there")
