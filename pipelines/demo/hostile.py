"""What a hostile or careless web serves under an image's name, and odd images that are perfectly good.

Each broken thing says how it must end (the status that its row must have); reasons are the crawl's and the screen's
words. Nothing here is a planted copy.
"""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageOps

from pipelines.demo.pictures import encode


@dataclass(frozen=True)
class Answer:
    """What the web server answers for a path: a body, or a ``behaviour`` that a body cannot show."""

    body: bytes = b""
    content_type: str = "image/jpeg"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    behaviour: str = ""
    """'' | endless | short (claims more bytes than it sends) | flaky (503 once, then well)."""


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing: a decompression bomb's first bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    ihdr = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", ihdr) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    )


def broken(photo: Image.Image) -> dict[str, Answer]:
    """path → what is served; every one must be refused or failed, with a reason."""
    good = encode(photo, "JPEG", quality=90)
    svg = b'<svg xmlns="http://www.w3.org/2000/svg" width="90" height="90"><script>alert(1)</script></svg>'
    return {
        "/truncated.jpg": Answer(good[: len(good) // 2]),
        "/page.jpg": Answer(b"<!doctype html><html><body>Not here</body></html>"),
        "/drawing.png": Answer(svg, "image/png"),
        "/empty.png": Answer(b"", "image/png"),
        "/bomb.png": Answer(png_header(50_000, 50_000), "image/png"),
        "/text.gif": Answer(b"GIF89a but not really", "image/gif"),
        "/short.jpg": Answer(good, behaviour="short"),
        "/endless.jpg": Answer(good, behaviour="endless"),
        "/zipped.png": Answer(gzip.compress(b"\0" * 50_000_000, mtime=0), headers={"Content-Encoding": "gzip"}),
        "/loop-a.jpg": Answer(status=302, headers={"Location": "/loop-b.jpg"}),
        "/loop-b.jpg": Answer(status=302, headers={"Location": "/loop-a.jpg"}),
        "/inside.jpg": Answer(status=302, headers={"Location": "http://10.0.0.1/secret.jpg"}),
        "/metadata.jpg": Answer(status=302, headers={"Location": "http://169.254.169.254/latest/meta-data"}),
        "/file.jpg": Answer(status=302, headers={"Location": "file:///etc/passwd"}),
        "/gone.jpg": Answer(b"gone", status=404),
        "/error.jpg": Answer(b"error", status=500),
        "/optout.jpg": Answer(good, headers={"X-Robots-Tag": "noai, noimageai"}),
        "/dot.gif": Answer(encode(Image.new("RGB", (1, 1)), "GIF"), "image/gif"),
    }


def odd(photos: list[Image.Image]) -> dict[str, Answer]:
    """path → an odd but good image, each from a photo of its own; every one must be kept."""
    pictures = [ImageOps.fit(p, (200, 160)) for p in photos]
    alpha = pictures[3].convert("RGBA")
    alpha.putalpha(Image.linear_gradient("L").resize(alpha.size))
    deep = (np.asarray(pictures[1].convert("L"), np.uint16) * 257).astype(np.uint16)
    turned = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    pictures[5].save(turned, "JPEG", quality=92, exif=exif)
    frames = [pictures[4], ImageOps.invert(pictures[4])]
    return {
        "/cmyk.jpg": Answer(encode(pictures[0].convert("CMYK"), "JPEG", quality=92)),
        "/deep.png": Answer(encode(Image.fromarray(deep)), "image/png"),
        "/palette.png": Answer(encode(pictures[2].quantize(64)), "image/png"),
        "/alpha.png": Answer(encode(alpha), "image/png"),
        "/moving.gif": Answer(encode(frames[0], "GIF", save_all=True, append_images=frames[1:]), "image/gif"),
        "/turned.jpg": Answer(turned.getvalue()),
        "/modern.webp": Answer(encode(pictures[6], "WEBP", quality=90), "image/webp"),
        "/wrong-name.png": Answer(encode(pictures[7], "JPEG", quality=92), "image/png"),
        "/flaky.jpg": Answer(encode(pictures[8], "JPEG", quality=92), behaviour="flaky"),
    }
