"""Shards: WebDataset tars of original image bytes, written once, named by content, read by byte range.

A member is called ``IMAGE_ID.EXT``; ``IMAGE_ID`` is the sha256 of its bytes. Tables hold each member's
``(shard, offset, length)``, so reading one image is one ranged read and needs no tar code. What is in an image
does not belong here.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from dinov2_core.storage import FileRecord, Store

BLOCK = 512


def image_id(data: bytes) -> str:
    """The name of an image: sha256 (hex) of its bytes."""
    return hashlib.sha256(data).hexdigest()


@dataclass
class ShardWriter:
    """Packs images into tars of at most ``max_images`` or ``max_bytes`` below ``folder``; use as a context manager.

    The same images in the same order give the same bytes: no clock, owner or mode enters the tar. An image that is
    added twice is stored once.
    """

    store: Store
    folder: str
    max_images: int = 1000
    max_bytes: int = 512 << 20
    files: list[FileRecord] = field(default_factory=list)
    """The shards written, complete after ``close``."""
    locations: dict[str, dict[str, Any]] = field(default_factory=dict)
    """image id → ``{"shard", "offset", "length"}``, complete after ``close``."""
    _buffer: io.BytesIO = field(default_factory=io.BytesIO)
    _open: dict[str, tuple[int, int]] = field(default_factory=dict)

    def add(self, data: bytes, extension: str, identity: str | None = None) -> str:
        """Store ``data`` and return its id (``identity`` where the caller names it, as for blurred copies)."""
        name = identity or image_id(data)
        if name in self._open or name in self.locations:
            return name
        if len(self._open) >= self.max_images or (self._open and self._buffer.tell() + len(data) > self.max_bytes):
            self.flush()
        info = tarfile.TarInfo(f"{name}.{extension}")
        info.size = len(data)
        self._buffer.write(info.tobuf(tarfile.USTAR_FORMAT))
        self._open[name] = (self._buffer.tell(), len(data))
        self._buffer.write(data)
        self._buffer.write(b"\0" * (-len(data) % BLOCK))
        return name

    def flush(self) -> None:
        """Close the current shard."""
        if not self._open:
            return
        self._buffer.write(b"\0" * (2 * BLOCK))
        data = self._buffer.getvalue()
        path = f"{self.folder}/shard-{hashlib.sha256(data).hexdigest()[:16]}.tar"
        self.files.append(self.store.write_bytes(path, data))
        for name, (offset, length) in self._open.items():
            self.locations[name] = {"shard": path, "offset": offset, "length": length}
        self._buffer, self._open = io.BytesIO(), {}

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        if kind is None:
            self.flush()


def read_image(store: Store, location: Mapping[str, Any]) -> bytes:
    """The bytes at ``location`` (a row with ``shard``, ``offset``, ``length``)."""
    return store.read_range(location["shard"], location["offset"], location["length"])


def read_images(store: Store, locations: Iterable[Mapping[str, Any]]) -> Iterator[bytes]:
    """The bytes of many images in the given order. Rows that follow each other in a shard share one open file."""
    current, handle = None, None
    try:
        for row in locations:
            if row["shard"] != current:
                if handle is not None:
                    handle.close()
                current, handle = row["shard"], store.open(row["shard"])
            assert handle is not None
            handle.seek(row["offset"])
            yield handle.read(row["length"])
    finally:
        if handle is not None:
            handle.close()


def walk(store: Store, shard: str) -> Iterator[tuple[str, int, bytes]]:
    """``(member name, offset, bytes)`` of every regular member of a tar, its own or anyone's."""
    with store.open(shard) as f, tarfile.open(fileobj=f, mode="r:") as tar:
        for member in tar:
            if member.isfile():
                inner = tar.extractfile(member)
                assert inner is not None
                yield member.name, member.offset_data, inner.read()
