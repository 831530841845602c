"""Write-once files below one root, on any fsspec file system (a local folder by default, ``s3://…``).

Every write goes to a temporary name in the same place (on an object store: to an upload that does not show), is hashed
on its way, and appears under its final name in one atomic step; what a killed writer leaves no reader looks at, and
``gc.py`` removes it. Paths given to a :class:`Store` are relative to its root, with forward slashes. What the files
mean (tables, shards, manifests) does not belong here; how to talk to an object store is in ``object_store.py``.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from dinov2_core import object_store
from dinov2_core.errors import DamagedDataError
from dinov2_core.object_store import ReadingFile, Upload, reaching

TEMPORARY = ".tmp-"


@dataclass(frozen=True)
class FileRecord:
    """One stored file: ``path`` relative to the store's root, ``bytes``, ``sha256`` (hex), ``rows`` if a table."""

    path: str
    bytes: int
    sha256: str
    rows: int | None = None


@dataclass(frozen=True)
class Entry:
    """One file as a listing shows it: size in bytes, and when it was written (seconds since the epoch)."""

    path: str
    bytes: int
    modified: float


class HashingFile(io.RawIOBase):
    """A binary file for writing that counts and hashes what passes through it."""

    def __init__(self, inner: IO[bytes] | Upload, where: str = "") -> None:
        self.inner, self.where, self.count, self.hash = inner, where, 0, hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        with reaching(self.where, "cannot be written"):
            self.inner.write(view)
        self.hash.update(view)
        self.count += len(view)
        return len(view)

    def tell(self) -> int:
        return self.count


class Store:
    """Files below ``root`` (a path or an fsspec URL). Cheap to make; picklable; safe to share between threads."""

    def __init__(self, root: str) -> None:
        self.root = str(root).rstrip("/")
        self.fs, self.base = object_store.filesystem(self.root)
        self.local = isinstance(self.fs, LocalFileSystem)

    def __reduce__(self) -> tuple[object, ...]:
        return (Store, (self.root,))

    def __repr__(self) -> str:
        return f"Store({self.root!r})"

    def full(self, path: str) -> str:
        """The path as the file system names it."""
        if path.startswith("/") or ".." in path.split("/"):
            raise ValueError(f"path outside the store: {path!r}")
        return f"{self.base}/{path}" if path else self.base

    def _reaching(self, doing: str = "cannot be read") -> AbstractContextManager[None]:
        return reaching(self.root, doing)

    def exists(self, path: str) -> bool:
        with self._reaching():
            return bool(self.fs.exists(self.full(path)))

    def read_bytes(self, path: str) -> bytes:
        try:
            with self._reaching():
                return bytes(self.fs.cat_file(self.full(path)))
        except FileNotFoundError:
            raise self._missing(path) from None

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        """``length`` bytes from ``offset``: one ranged request on an object store."""
        try:
            with self._reaching():
                data = self.fs.cat_file(self.full(path), start=offset, end=offset + length)
        except FileNotFoundError:
            raise self._missing(path) from None
        if len(data) != length:
            raise DamagedDataError(
                f"{len(data)} bytes at offset {offset}, {length} expected",
                where=f"{self.root}/{path}",
                todo="materialise the asset that wrote it again",
            )
        return data

    def open(self, path: str) -> IO[bytes]:
        try:
            with self._reaching():
                if self.local:
                    return self.fs.open(self.full(path), "rb")
                inner = self.fs.open(self.full(path), "rb", block_size=object_store.WHOLE_BYTES)
        except FileNotFoundError:
            raise self._missing(path) from None
        return cast("IO[bytes]", ReadingFile(inner, f"{self.root}/{path}"))

    def _missing(self, path: str) -> DamagedDataError:
        return DamagedDataError(
            "the file is missing", where=f"{self.root}/{path}", todo="materialise the asset that wrote it again"
        )

    def find(self, prefix: str) -> list[str]:
        """All files below ``prefix``, relative to the root, sorted, without temporary ones."""
        return [entry.path for entry in self.listing(prefix) if TEMPORARY not in entry.path]

    def listing(self, prefix: str) -> list[Entry]:
        """All files below ``prefix``, temporary ones too, in order of path."""
        try:
            with self._reaching():
                found = self.fs.find(self.full(prefix), detail=True)
        except FileNotFoundError:
            return []
        # Some object stores keep an emptied folder's marker.
        return [
            Entry(str(path)[len(self.base) + 1 :], int(about["size"] or 0), _modified(about))
            for path, about in sorted(found.items())
            if about["type"] != "directory"
        ]

    def folders(self, prefix: str) -> list[str]:
        """Names of the folders directly below ``prefix``, sorted."""
        try:
            with self._reaching():
                rows = self.fs.ls(self.full(prefix), detail=True)
        except FileNotFoundError:
            return []
        names = [str(r["name"]).rstrip("/").rsplit("/", 1)[-1] for r in rows if r["type"] == "directory"]
        return sorted(n for n in names if not n.startswith("."))

    def size(self, path: str) -> int:
        with self._reaching():
            return int(self.fs.size(self.full(path)) or 0)

    def delete(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError), self._reaching("cannot be deleted"):
            self.fs.rm(self.full(path), recursive=True)

    @contextlib.contextmanager
    def create(self, path: str, *, exclusive: bool = False) -> Iterator[HashingFile]:
        """Write ``path`` atomically. Nothing appears under that name if the block raises or is killed.

        Args:
            exclusive: raise FileExistsError, and write nothing, where the file exists; of several writers at once one
                wins. Object stores without conditional writes overwrite.
        """
        full = self.full(path)
        if not self.local:
            # Object stores show an object only when its upload completes: that is the rename. No folder is made first:
            # for a mistyped bucket that would make the bucket.
            upload = Upload(self.fs, full, self.root, exclusive)
            try:
                yield HashingFile(upload, self.root)
                upload.finish()
            except BaseException:
                upload.discard()
                raise
            return
        parent, name = full.rsplit("/", 1)
        temporary = f"{parent}/{TEMPORARY}{secrets.token_hex(6)}-{name}"
        with self._reaching("cannot be written"):
            self.fs.makedirs(parent, exist_ok=True)
            inner = open(temporary, "wb")  # noqa: SIM115 - closed below, apart from where it may fail
        try:
            yield HashingFile(inner, self.root)
            with self._reaching("cannot be written"):
                inner.flush()
                os.fsync(inner.fileno())
                inner.close()
            if exclusive:
                os.link(temporary, full)
                os.unlink(temporary)
            else:
                os.replace(temporary, full)
        except BaseException:
            # On a full disk closing fails as well, and would hide why.
            with contextlib.suppress(OSError):
                inner.close()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise

    def write_bytes(self, path: str, data: bytes, *, exclusive: bool = False) -> FileRecord:
        with self.create(path, exclusive=exclusive) as f:
            f.write(data)
        return FileRecord(path, f.count, f.hash.hexdigest())

    def write_table(self, path: str, table: pa.Table) -> FileRecord:
        """Write one Parquet file; equal tables give equal bytes."""
        with self.create(path) as f:
            pq.write_table(table, f, compression="zstd", row_group_size=65536, store_schema=True)
        return FileRecord(path, f.count, f.hash.hexdigest(), table.num_rows)

    def read_table(self, path: str, columns: list[str] | None = None) -> pa.Table:
        try:
            with self.open(path) as f:
                return pq.read_table(f, columns=columns)
        except (pa.ArrowInvalid, OSError) as error:
            raise DamagedDataError(
                f"not a readable table ({error})",
                where=f"{self.root}/{path}",
                todo="materialise the asset that wrote it again",
            ) from error

    def verify(self, record: FileRecord) -> None:
        """Raise :class:`DamagedDataError` unless the file has the recorded size and checksum."""
        digest, count = hashlib.sha256(), 0
        with self.open(record.path) as f:
            while block := f.read(1 << 20):
                digest.update(block)
                count += len(block)
        if count != record.bytes or digest.hexdigest() != record.sha256:
            raise DamagedDataError(
                f"the file has {count} bytes and checksum {digest.hexdigest()[:12]}, "
                f"its manifest says {record.bytes} and {record.sha256[:12]}",
                where=f"{self.root}/{record.path}",
                todo="materialise the asset that wrote it again",
            )


def _modified(about: Mapping[str, Any]) -> float:
    """When a file was written, from what its file system says of it."""
    when = about.get("mtime") or about.get("LastModified") or about.get("created") or 0.0
    return float(when.timestamp() if hasattr(when, "timestamp") else when)
