"""Site maps: the addresses of pages, images and further maps that a site lists, in XML, plain or gzipped.

Whose files they are is unknown, so size is bounded after unpacking and entities are refused. Fetching does not belong
here.
"""

from __future__ import annotations

import re
import zlib
from xml.etree import ElementTree

DEPTH = 3
"""Maps of maps that are followed: the protocol knows one level."""
_FIRST = re.compile(rb"<(?:\w+:)?([A-Za-z]\w*)")
_ROOTS = (b"urlset", b"sitemapindex")


class UnsafeSitemapError(Exception):
    """Larger than allowed once unpacked, or with entities of its own."""


def is_sitemap(data: bytes) -> bool:
    """Whether bytes of a server begin as a site map does."""
    try:
        found = _FIRST.search(_unpacked(data, 4096)[:4096])
    except zlib.error:
        return False
    return found is not None and found[1] in _ROOTS


def locations(data: bytes, *, max_bytes: int) -> list[str]:
    """Every ``<loc>`` of pages, images and further maps, in order.

    Raises:
        UnsafeSitemapError: see there.
        ValueError: no XML, or damaged.
    """
    try:
        data = _unpacked(data, max_bytes)
        # Entities are how XML becomes a bomb; site maps need none of their own.
        if len(data) > max_bytes or re.search(rb"<!ENTITY", data, re.IGNORECASE):
            raise UnsafeSitemapError
        nodes = ElementTree.fromstring(data).iter()  # noqa: S314 - entities are refused above
    except (ElementTree.ParseError, zlib.error) as error:
        raise ValueError(str(error)) from error
    named = (node.text.strip() for node in nodes if str(node.tag).rsplit("}", 1)[-1] == "loc" and node.text)
    return [url for url in named if url]


def _unpacked(data: bytes, limit: int) -> bytes:
    return zlib.decompressobj(31).decompress(data, limit + 1) if data[:2] == b"\x1f\x8b" else data
