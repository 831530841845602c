"""What object stores need beyond a local disk: patient clients, whole uploads, reads and writes that say what failed.

Clients retry what is worth retrying (503, time-outs, lost connections) with growing, jittered pauses; the standard
variables ``AWS_MAX_ATTEMPTS`` and ``AWS_RETRY_MODE`` overrule how often and how. Which files there are does not belong
here.
"""

from __future__ import annotations

import contextlib
import io
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import fsspec

from dinov2_core.errors import UserError

CHECK = "check DATA_ROOT, the bucket's name, its credentials and the network"
WHOLE_BYTES = 8 << 20
"""Up to here a file goes up in one request; beyond it, in parts. Also what a reader asks for at a time."""
PART_BYTES = 16 << 20
"""S3 takes 10,000 parts: files up to 160 GB. Memory of a writer is about two parts."""
_ATTEMPTS = 8
"""Pauses are random up to 2, 4, 8, 16 and then 20 seconds (botocore's standard mode): bursts of half a minute pass."""
_CLIENTS = ("botocore", "aiobotocore", "aiohttp", "s3fs", "fsspec")


def filesystem(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """File system and path of ``uri``, for a place that other processes write to as well."""
    options: dict[str, Any] = {"use_listings_cache": False}  # a remembered listing would hide what they wrote
    if uri.startswith(("s3://", "s3a://")):
        mode = os.environ.get("AWS_RETRY_MODE", "standard")
        attempts = int(os.environ.get("AWS_MAX_ATTEMPTS", _ATTEMPTS))
        options["config_kwargs"] = {"retries": {"mode": mode, "total_max_attempts": attempts}}
        options["default_block_size"] = PART_BYTES
    fs, path = fsspec.core.url_to_fs(uri, **options)
    return fs, str(path)


def from_outside(error: BaseException) -> bool:
    """Whether ``error`` is the storage's or the network's, not a mistake of ours."""
    return isinstance(error, OSError) or type(error).__module__.split(".")[0] in _CLIENTS


@contextlib.contextmanager
def reaching(where: str, doing: str = "cannot be read") -> Iterator[None]:
    """Turn what storage and network raise into one line; only calls of the file system belong in the block.

    Raises:
        FileNotFoundError, FileExistsError: as they are: callers know what they mean.
        UserError: anything else that came from outside.
    """
    try:
        yield
    except (FileNotFoundError, FileExistsError):
        raise
    except PermissionError as error:
        raise UserError(f"{doing}: access was refused ({_line(error)})", where=where, todo=CHECK) from error
    except Exception as error:
        if not from_outside(error):
            raise
        raise UserError(f"{doing}: {_line(error)}", where=where, todo=CHECK) from error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


class ReadingFile(io.RawIOBase):
    """A remote file, read and sought as any other, whose failures are one clear line."""

    def __init__(self, inner: Any, where: str) -> None:
        self.inner, self.where = inner, where

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self.inner.seek(offset, whence))

    def tell(self) -> int:
        return int(self.inner.tell())

    def read(self, size: int | None = -1) -> bytes:
        with reaching(self.where):
            return bytes(self.inner.read(-1 if size is None else size))

    def readall(self) -> bytes:
        return self.read()

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self.inner.close()
        super().close()


class Upload:
    """One object on its way: nothing shows under ``path`` before :meth:`finish`.

    ``exclusive`` asks the server to refuse where the object exists (``If-None-Match: *``); a server that does not know
    that header overwrites.
    """

    def __init__(self, fs: Any, path: str, where: str, exclusive: bool = False) -> None:
        self.fs, self.path, self.where, self.exclusive = fs, path, where, exclusive
        self._head = io.BytesIO()
        self._parts: Any = None

    def write(self, data: memoryview) -> None:
        if self._parts is None and self._head.tell() + len(data) <= WHOLE_BYTES:
            self._head.write(data)
            return
        if self._parts is None:
            mode = "xb" if self.exclusive else "wb"
            self._parts = self.fs.open(self.path, mode, autocommit=False, block_size=PART_BYTES)
            self._parts.write(self._head.getbuffer())
            self._head = io.BytesIO()
        for start in range(0, len(data), PART_BYTES):
            self._parts.write(data[start : start + PART_BYTES])

    def finish(self) -> None:
        """Let the object appear.

        Raises:
            FileExistsError: it exists, and the upload was to be exclusive.
        """
        with reaching(self.where, "cannot be written"), _taken():
            if self._parts is None:
                self.fs.pipe_file(self.path, self._head.getvalue(), mode="create" if self.exclusive else "overwrite")
            else:
                self._parts.close()
                self._parts.commit()

    def discard(self) -> None:
        """Give the parts back to the server, as far as it can be reached."""
        if self._parts is not None:
            with contextlib.suppress(Exception):
                self._parts.discard()


@contextlib.contextmanager
def _taken() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        answer = getattr(error.__cause__ or error, "response", {}) or {}
        if answer.get("ResponseMetadata", {}).get("HTTPStatusCode") in (409, 412):
            raise FileExistsError(str(error)) from error
        raise


@dataclass(frozen=True)
class Unfinished:
    """A multipart upload that was begun and neither finished nor aborted; ``age`` in seconds."""

    path: str
    upload: str
    age: float


def unfinished(fs: Any, base: str) -> list[Unfinished]:
    """The unfinished uploads below ``base`` (``bucket/prefix``), where the store has such a thing."""
    if not hasattr(fs, "call_s3"):
        return []
    bucket, _, prefix = base.partition("/")
    found: list[Unfinished] = []
    more: dict[str, str] = {}
    while True:
        page = fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=f"{prefix}/" if prefix else "", **more)
        for one in page.get("Uploads") or ():
            age = time.time() - one["Initiated"].timestamp()
            found.append(Unfinished(f"{bucket}/{one['Key']}", one["UploadId"], age))
        if not page.get("IsTruncated"):
            return found
        more = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}


def abort(fs: Any, one: Unfinished) -> None:
    """End an unfinished upload; one that is gone meanwhile is no error."""
    bucket, _, key = one.path.partition("/")
    with contextlib.suppress(FileNotFoundError):
        fs.abort_mpu(bucket, key, one.upload)
