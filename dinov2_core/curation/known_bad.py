"""Lists of known bad images: exact hashes (sha256, md5) and PDQ hashes within a Hamming distance. No list is shipped.

A list is a text file, one hash a line, ``#`` for comments: ``KIND:HEX``, ``KIND HEX`` or ``KIND,HEX`` with KIND one of
sha256, md5, pdq. A bare hash of 32 digits is an md5, of 64 a sha256, unless the file's name contains ``pdq``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from dinov2_core.errors import UserError

DISTANCE = 31
"""Bits of 256 within which two PDQ hashes are one picture, as the hash's authors recommend."""
MIN_QUALITY = 50
"""PDQ's own measure, 0 to 100: hashes of flat pictures match each other and mean nothing."""
_DIGITS = {"md5": 32, "sha256": 64, "pdq": 64}


class HashLists:
    """``match(data, pixels)`` is the kind of hash that is listed for an image, or an empty string."""

    def __init__(self, entries: Iterable[tuple[str, str]], *, distance: int = DISTANCE) -> None:
        held: dict[str, set[str]] = {kind: set() for kind in _DIGITS}
        for kind, digits in entries:
            held[kind].add(digits)
        self.exact = {kind: held[kind] for kind in ("md5", "sha256")}
        pdq = sorted(held["pdq"])
        self.pdq = np.frombuffer(bytes.fromhex("".join(pdq)), np.uint8).reshape(-1, 32)
        self.distance = distance

    @staticmethod
    def read(paths: Iterable[str], *, distance: int = DISTANCE) -> HashLists:
        """The lists in the files ``paths``.

        Raises:
            UserError: a file that cannot be read, or a line that is no hash.
        """
        return HashLists([entry for path in paths for entry in _entries(path)], distance=distance)

    def match(self, data: bytes, pixels: np.ndarray) -> str:
        """``sha256`` | ``md5`` | ``pdq`` | ``''`` for encoded bytes and their uint8 H×W×3 pixels."""
        if hashlib.sha256(data).hexdigest() in self.exact["sha256"]:
            return "sha256"
        if self.exact["md5"] and hashlib.md5(data, usedforsecurity=False).hexdigest() in self.exact["md5"]:
            return "md5"
        return "pdq" if len(self.pdq) and self._near(pixels) else ""

    def _near(self, pixels: np.ndarray) -> bool:
        hashes, quality = pdq_hashes(pixels)
        if quality < MIN_QUALITY:
            return False
        apart = np.bitwise_count(hashes[:, None, :] ^ self.pdq[None]).sum(axis=2, dtype=np.int32)
        return bool((apart <= self.distance).any())


def pdq_hashes(pixels: np.ndarray) -> tuple[np.ndarray, int]:
    """PDQ hashes of uint8 H×W×3 as it is, turned and mirrored: uint8 [8, 32]; and the hash's quality, 0 to 100."""
    try:
        import pdqhash  # type: ignore[import-untyped]
    except ImportError as error:
        raise UserError("PDQ hashes need the package pdqhash", todo="install it, or leave PDQ lists out") from error
    hashes, quality = pdqhash.compute_dihedral(np.ascontiguousarray(pixels))
    return np.packbits(np.array(hashes, dtype=np.uint8), axis=1), int(quality)


def _entries(path: str) -> list[tuple[str, str]]:
    try:
        lines = Path(path).read_text("utf-8", "replace").splitlines()
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})", where=path, todo="check the hash list") from error
    found = []
    for number, line in enumerate(lines, 1):
        text = line.split("#", 1)[0].strip().lower()
        if not text:
            continue
        match = re.fullmatch(r"(?:(md5|sha256|pdq)[\s:,]+)?([0-9a-f]+)", text)
        digits = match[2] if match else ""
        wide = "pdq" if "pdq" in Path(path).name.lower() else "sha256"
        kind = (match and match[1]) or ("md5" if len(digits) == 32 else wide)
        if len(digits) != _DIGITS[kind]:
            raise UserError(f"line {number} is no hash", where=path, todo="write md5, sha256 or pdq and its digits")
        found.append((kind, digits))
    return found
