"""Looks for planted secrets in whatever a run wrote."""

from __future__ import annotations

import base64
import contextlib
import gzip
import urllib.parse
import zlib
from collections.abc import Iterable
from pathlib import Path


def forms(secret: str) -> list[bytes]:
    """A secret as it is, as it stands in a URL, and in base64."""
    plain = secret.encode()
    quoted = urllib.parse.quote(secret, safe="").encode()
    return [plain, quoted, base64.b64encode(plain).rstrip(b"=")[:-1]]


def holds(data: bytes, secrets: Iterable[str]) -> bool:
    """Whether bytes hold a secret; compressed ones are opened."""
    if data[:2] == b"\x1f\x8b":
        data += gzip.decompress(data)
    elif data[:1] == b"\x78":
        with contextlib.suppress(zlib.error):
            data += zlib.decompress(data)
    return any(form in data for secret in secrets for form in forms(secret))


def files_with(folder: Path, secrets: Iterable[str]) -> list[str]:
    """Files below ``folder`` whose content or name holds a secret."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and (holds(path.read_bytes(), secrets) or holds(str(path).encode(), secrets)):
            found.append(str(path.relative_to(folder)))
    return found
