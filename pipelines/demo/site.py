"""Pages: the HTML that shows pictures in all the ways the web does, and the archives that hold some of it.

What is shown is ``world.py``'s business; how it is served, ``web.py``'s.
"""

from __future__ import annotations

import gzip
import html
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

PAGE_SIZE = 48


@dataclass(frozen=True)
class Page:
    """One HTML page at ``url``; an ``archived`` one is in the batch's WARC, another is only live."""

    url: str
    body: bytes
    archived: bool


def gallery(url: str, title: str, images: Sequence[str], *, hrefs: Iterable[str] = ()) -> bytes:
    """A page that refers to ``images`` (absolute URLs) in turn by every form that crawlers must know."""
    host = f"{urlsplit(url).scheme}://{urlsplit(url).netloc}"
    items = []
    for index, image in enumerate(images):
        short = html.escape(image.removeprefix(host) if image.startswith(host + "/") else image)
        whole = html.escape(image)
        items.append(
            (
                f'<img src="{whole}" alt="picture {index}">',
                f'<img src="{short}" width="200">',
                f'<img srcset="{whole} 1x" sizes="100vw" alt="">',
                f'<img src="data:image/gif;base64,R0lGODlhAQABAAAAACw=" data-src="{whole}" loading="lazy">',
                f'<picture><source srcset="{whole}"><img data-original="{whole}"></picture>',
                f'<noscript><img src="{short}"></noscript>',
            )[index % 6]
        )
    links = "".join(f'<a href="{html.escape(h)}">more</a>' for h in hrefs)
    text = (
        f"<!doctype html><html><head><meta charset=utf-8><title>{html.escape(title)}</title>"
        f'<base href="{host}/"></head><body><h1>{html.escape(title)}</h1>{"".join(items)}{links}</body></html>'
    )
    return text.encode()


def pages_of(host: str, title: str, images: Sequence[str], *, live_every: int = 0) -> list[Page]:
    """Gallery pages of ``PAGE_SIZE`` images; each ``live_every``-th one is live only."""
    made = []
    for number, start in enumerate(range(0, len(images), PAGE_SIZE)):
        url = f"http://{host}/page-{number}.html"
        body = gallery(url, f"{title}, page {number}", images[start : start + PAGE_SIZE])
        made.append(Page(url, body, archived=not live_every or number % live_every != live_every - 1))
    return made


def wall(url: str, images: Sequence[str], references: int) -> bytes:
    """One page with ``references`` references to the same few images."""
    body = "".join(f'<img src="{html.escape(images[i % len(images)])}">' for i in range(references))
    return f"<!doctype html><title>Wall</title>{body}".encode()


def warc(pages: Iterable[Page]) -> bytes:
    """The pages as response records of a WARC 1.1 file, each record gzipped by itself, as page archives come."""
    records = [_record("warcinfo", None, b"software: dinov2-pipeline demo\r\n", "application/warc-fields")]
    for page in pages:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {len(page.body)}\r\n\r\n"
        records.append(_record("response", page.url, head.encode() + page.body, "application/http; msgtype=response"))
    return b"".join(gzip.compress(r, mtime=0) for r in records)


def _record(kind: str, url: str | None, body: bytes, content_type: str) -> bytes:
    lines = [
        "WARC/1.1",
        f"WARC-Type: {kind}",
        "WARC-Date: 2026-01-01T00:00:00Z",
        f"WARC-Record-ID: <urn:uuid:00000000-0000-4000-8000-{hash_of(body):012x}>",
        *([f"WARC-Target-URI: {url}"] if url else []),
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body)}",
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body + b"\r\n\r\n"


def hash_of(body: bytes) -> int:
    """A number of 48 bits that is the same on every machine (``hash`` is salted)."""
    return (zlib.crc32(body) << 16) | (zlib.adler32(body) & 0xFFFF)
