"""Write-once files below one root, on any fsspec file system (a local folder by default, ``s3://…``).

Every write goes to a temporary name in the same place, is hashed on its way, and appears under its final name
in one atomic step; a killed writer leaves at most a ``.tmp-`` file, which no reader looks at and the next
writer removes. Paths given to a :class:`Store` are relative to its root, with forward slashes. What the files
mean (tables, shards, manifests) does not belong here.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from dinov2_core.errors import DamagedDataError, UserError

TEMPORARY = ".tmp-"
_CHECK = "check DATA_ROOT, the bucket's name and its credentials"


@dataclass(frozen=True)
class FileRecord:
    """One stored file: ``path`` relative to the store's root, ``bytes``, ``sha256`` (hex), ``rows`` if a table."""

    path: str
    bytes: int
    sha256: str
    rows: int | None = None


class HashingFile(io.RawIOBase):
    """A binary file for writing that counts and hashes what passes through it."""

    def __init__(self, inner: IO[bytes]) -> None:
        self.inner, self.count, self.hash = inner, 0, hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
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
        # Other processes write here too: a remembered listing would hide what they wrote.
        self.fs, self.base = fsspec.core.url_to_fs(self.root, use_listings_cache=False)
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

    @contextlib.contextmanager
    def _reaching(self) -> Iterator[None]:
        """Says in one line that the storage refused; only calls of the file system belong in the block."""
        try:
            yield
        except PermissionError as error:
            raise UserError(f"access was refused ({error})", where=self.root, todo=_CHECK) from error

    def exists(self, path: str) -> bool:
        with self._reaching():
            return bool(self.fs.exists(self.full(path)))

    def read_bytes(self, path: str) -> bytes:
        with self.open(path) as f:
            return f.read()

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
                return self.fs.open(self.full(path), "rb")
        except FileNotFoundError:
            raise self._missing(path) from None

    def _missing(self, path: str) -> DamagedDataError:
        return DamagedDataError(
            "the file is missing", where=f"{self.root}/{path}", todo="materialise the asset that wrote it again"
        )

    def find(self, prefix: str) -> list[str]:
        """All files below ``prefix``, relative to the root, sorted, without temporary ones."""
        try:
            with self._reaching():
                found = self.fs.find(self.full(prefix), detail=True)
        except FileNotFoundError:
            return []
        # Some object stores keep an emptied folder's marker.
        paths = [str(p)[len(self.base) + 1 :] for p, about in found.items() if about["type"] != "directory"]
        return sorted(p for p in paths if TEMPORARY not in p)

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
        with contextlib.suppress(FileNotFoundError), self._reaching():
            self.fs.rm(self.full(path), recursive=True)

    def sweep(self, prefix: str) -> int:
        """Remove what killed writers left below ``prefix``. Call it only as the prefix's one writer."""
        try:
            found = [p for p in self.fs.find(self.full(prefix)) if TEMPORARY in p]
        except FileNotFoundError:
            return 0
        for path in found:
            self.fs.rm_file(path)
        return len(found)

    @contextlib.contextmanager
    def create(self, path: str) -> Iterator[HashingFile]:
        """Write ``path`` atomically. Nothing appears under that name if the block raises or is killed."""
        full = self.full(path)
        parent, name = full.rsplit("/", 1)
        if self.local:
            with self._writing():
                self.fs.makedirs(parent, exist_ok=True)
            temporary = f"{parent}/{TEMPORARY}{secrets.token_hex(6)}-{name}"
            try:
                with open(temporary, "wb") as inner:
                    yield HashingFile(inner)
                    inner.flush()
                    os.fsync(inner.fileno())
                os.replace(temporary, full)
            except BaseException:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary)
                raise
            return
        # Object stores show an object only when its upload completes: that is the rename. No folder is made first: for
        # a mistyped bucket that would make the bucket.
        with self._writing():
            inner = self.fs.open(full, "wb", autocommit=False)
        try:
            yield HashingFile(inner)
            with self._writing():
                inner.close()
                inner.commit()
        except BaseException:
            with contextlib.suppress(Exception):
                inner.discard()
            raise

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(f"cannot write: {error}", where=self.root, todo=_CHECK) from error

    def write_bytes(self, path: str, data: bytes) -> FileRecord:
        with self.create(path) as f:
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
