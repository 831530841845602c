"""Where every image of a set lies, as arrays: any one of millions is read by position, with one ranged read.

An index is a small folder of arrays that are mapped and not loaded, so that a hundred million images cost a process
nothing and workers share them. It is made from a folder tree, tar shards, Parquet (packed into shards first, since it
has no ranged reads), or a table of locations. Decoding does not belong here.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dinov2_core import config, manifest
from dinov2_core.errors import UserError
from dinov2_core.images.decode import EXTENSIONS, Refused, probe
from dinov2_core.images.sets import IMAGE_SUFFIXES, ImageSet, files_of
from dinov2_core.images.shards import BLOCK, ShardWriter
from dinov2_core.progress import track
from dinov2_core.storage import Store

_READERS = 8
"""Ranged reads at once on an object store, whose latency would else be all there is."""
_ARRAYS = ("file", "offset", "length")
WHOLE = -1
"""The length of an image that is a file of its own."""


class ImageIndex:
    """``len(index)`` images of one store; made by :func:`index_table` or :func:`index_set`."""

    def __init__(self, folder: Path) -> None:
        about = json.loads((folder / "index.json").read_text())
        self.folder, self.digest = folder, str(about["digest"])
        self.store, self.files = Store(about["root"]), list(about["files"])
        self.by_id = bool(about["by_id"])
        self.file, self.offset, self.length = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in _ARRAYS)

    def __reduce__(self) -> tuple[object, ...]:
        return (ImageIndex, (self.folder,))

    def __len__(self) -> int:
        return len(self.file)

    def location(self, index: int) -> dict[str, Any]:
        """``shard``, ``offset`` and ``length`` of one image; length -1 is the whole file."""
        return {
            "shard": self.files[self.file[index]],
            "offset": int(self.offset[index]),
            "length": int(self.length[index]),
        }

    def read(self, indices: Sequence[int]) -> list[bytes]:
        """The bytes of the images at ``indices``."""
        if self.store.local or len(indices) < 2:
            return [self._one(i) for i in indices]
        with ThreadPoolExecutor(min(_READERS, len(indices))) as threads:
            return list(threads.map(self._one, indices))

    def _one(self, index: int) -> bytes:
        at = self.location(index)
        if at["length"] == WHOLE:
            return self.store.read_bytes(at["shard"])
        return self.store.read_range(at["shard"], at["offset"], at["length"])

    def name(self, index: int) -> str:
        """The image id in shards of ours; else the file's path, or ``SHARD/MEMBER``.

        Nothing is stored for it: a tar names its member in the block before the bytes.
        """
        at = self.location(index)
        if at["length"] == WHOLE:
            return str(at["shard"])
        header = self.store.read_range(at["shard"], at["offset"] - BLOCK, BLOCK)
        member = tarfile.TarInfo.frombuf(header, "utf-8", "replace").name
        return member.partition(".")[0] if self.by_id else f"{at['shard']}/{member}"


def index_table(folder: Path, store: Store, table: pa.Table, digest: str = "") -> ImageIndex:
    """The index of images in shards of ours: a table's columns ``shard``, ``offset``, ``length``, row by row.

    ``digest`` names the version of the images; where it is left out, the columns' own.
    """
    shards = table["shard"].combine_chunks().dictionary_encode()
    file = np.asarray(shards.indices, np.int32)
    places = [np.asarray(table[name], np.int64) for name in ("offset", "length")]
    files = shards.dictionary.to_pylist()
    if not digest:
        total = hashlib.sha256("\0".join(files).encode())
        for values in (file, *places):
            total.update(np.ascontiguousarray(values).data)
        digest = total.hexdigest()
    return _written(folder, store.root, files, (file, *places), digest, by_id=True)


def index_set(folder: Path, uri: str) -> ImageIndex:
    """The index of the images at ``uri``: what :class:`ImageSet` reads, or the folder of a stage that packed shards.

    It is kept in ``folder`` and made again only when names or sizes at ``uri`` have changed.

    Raises:
        UserError: nothing there, no image, or a file that cannot be read.
    """
    fs, base, names = files_of(uri)
    about = {str(path): info["size"] for path, info in fs.find(base, detail=True).items()}
    digest = config.digest([uri, [(name, about.get(f"{base}/{name}")) for name in names]])
    if (folder / "index.json").exists() and (found := ImageIndex(folder)).digest == digest:
        return found
    if "manifest.json" in names:
        return _index_stage(folder, base if "://" not in uri else uri.rstrip("/"), digest)
    groups = ImageSet(uri).groups()
    members = [name for group in groups for name in group]
    root = base if "://" not in uri else fs.unstrip_protocol(base)
    if members[0].endswith(".parquet"):
        return _packed(folder, uri, digest)
    if not members[0].endswith(".tar"):
        whole = np.full(len(members), WHOLE, np.int64)
        return _written(folder, root, members, (np.arange(len(members), dtype=np.int32), whole * 0, whole), digest)
    inside = [_members(Store(root), name, uri) for name in track(members, "reading the tars' tables")]
    counts = [len(one) for one in inside]
    if not sum(counts):
        raise UserError("no image in these tars", where=uri, todo=f"members must end in {' '.join(IMAGE_SUFFIXES)}")
    file = np.repeat(np.arange(len(members), dtype=np.int32), counts)
    places = np.concatenate([np.array(one, np.int64).reshape(-1, 2) for one in inside])
    return _written(folder, root, members, (file, places[:, 0], places[:, 1]), digest)


def _members(store: Store, name: str, uri: str) -> list[tuple[int, int]]:
    """``(offset, length)`` of every image of a tar."""
    try:
        with store.open(name) as f, tarfile.open(fileobj=f, mode="r:") as tar:
            return [(m.offset_data, m.size) for m in tar if m.isfile() and m.name.lower().endswith(IMAGE_SUFFIXES)]
    except (tarfile.TarError, EOFError) as error:
        raise UserError(f"not a readable tar ({error})", where=f"{uri}/{name}", todo="replace it") from error


def _packed(folder: Path, uri: str, digest: str) -> ImageIndex:
    store = Store(str(folder))
    with ShardWriter(store, "packed") as writer:
        for item in track(ImageSet(uri, labels="none"), "packing Parquet into shards"):
            seen = probe(item.data)
            writer.add(item.data, "bin" if isinstance(seen, Refused) else EXTENSIONS[seen.format])
    return index_table(folder, store, pa.Table.from_pylist(list(writer.locations.values())), digest)


def _index_stage(folder: Path, uri: str, digest: str) -> ImageIndex:
    """The images that a stage packed: its table with locations, whose paths count from the data root."""
    root, stage, partition = uri.rsplit("/", 2)
    store = Store(root)
    made = manifest.read(store, stage, partition)
    records = [record for name in ("packed", "labelled") for record in (made.table(name) if made else [])]
    if not records:
        raise UserError(
            "this stage has packed no images", where=uri, todo="name the folder of curated_lvd or seed_sets"
        )
    rows = pa.concat_tables([store.read_table(record.path, ["shard", "offset", "length"]) for record in records])
    return index_table(folder, store, rows, digest)


def _written(
    folder: Path, root: str, files: list[str], arrays: tuple[NDArray[Any], ...], digest: str, *, by_id: bool = False
) -> ImageIndex:
    """Write the arrays, then the description that makes them an index."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, values in zip(_ARRAYS, arrays, strict=True):
        np.save(folder / f".{name}.npy", values)
        os.replace(folder / f".{name}.npy", folder / f"{name}.npy")
    about = {"root": root, "files": files, "digest": digest, "by_id": by_id}
    (folder / ".index.json").write_text(json.dumps(about))
    os.replace(folder / ".index.json", folder / "index.json")
    return ImageIndex(folder)
