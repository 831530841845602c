"""From untrusted bytes to RGB pixels, or to a reason: nothing here raises, whatever the bytes.

The size is read from the header and checked before any pixel is allocated. What is done with the pixels (quality,
hashes, models) does not belong here, nor does fetching.
"""

from __future__ import annotations

import io
import logging
import struct
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
"""What is decoded. Everything else that Pillow can open stays closed: each opener is attack surface."""
EXTENSIONS = {
    "JPEG": "jpg",
    "PNG": "png",
    "WEBP": "webp",
    "GIF": "gif",
    "BMP": "bmp",
    "TIFF": "tif",
    "AVIF": "avif",
}
MAX_PIXELS = 89_000_000
MAX_SCANS = 100
"""A progressive JPEG has about ten scans; each costs a pass over all pixels, so thousands are an attack."""

# EXIF orientation → the transposition that undoes it.
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION, _TILE_WIDTH, _TILE_LENGTH = 0x0112, 322, 323

_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"BM")
_FOREIGN = (b"8BPS", b"%PDF", b"\0\0\1\0", b"\xff\x0a", b"\0\0\0\x0cJXL ", b"\0\0\0\x0cjP  ", b"\x1aE\xdf\xa3", b"FLV")

# What Pillow logs of a damaged file is in its reason.
logging.getLogger("PIL").addHandler(logging.NullHandler())
# Pillow warns about sizes (our own check answers for them) and about broken metadata (which changes no pixel).
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


@dataclass(frozen=True)
class Decoded:
    """``pixels`` uint8 H×W×3 RGB, upright, on white; ``format`` and ``mode`` as stored.

    ``frames`` is 1 for a still picture; for GIF and TIFF it stops at 2, since counting walks the whole file.
    """

    pixels: np.ndarray
    format: str
    mode: str
    frames: int = 1


@dataclass(frozen=True)
class Probe:
    """What the header says: ``format``, and ``width`` × ``height`` as stored (before EXIF rotation)."""

    format: str
    width: int
    height: int


@dataclass(frozen=True)
class Refused:
    """``reason``: empty | not an image | html | svg | unsupported format | truncated | damaged | too many pixels |
    too many scans."""

    reason: str


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS, enough: int = 0) -> Decoded | Refused:
    """Decode the first frame of ``data``.

    ``enough``: a JPEG is decoded at a half, quarter or eighth of its sides while that many pixels remain, which costs a
    fraction of the time; 0 means in full.

    EXIF orientation is applied, transparency is put on white, 16-bit is scaled (not clipped) to 8, CMYK, palette
    and grey become RGB. 32-bit integer and float pictures have no agreed white: they are stretched from their
    minimum to their maximum.
    """
    try:
        with _open(data, max_pixels) as image:
            found, mode = _format(image), image.mode
            if found == "JPEG" and data.count(b"\xff\xda") > MAX_SCANS:
                return Refused("too many scans")
            if found == "JPEG" and (part := _fraction(image.size, enough)) > 1:
                image.draft(None, (-(-image.width // part), -(-image.height // part)))
            image.load()
            return Decoded(np.array(_to_rgb(_upright(image))), found, mode, _frames(image, found))
    except Exception as error:  # noqa: BLE001 - Pillow raises any kind of exception on hostile bytes
        return Refused(_reason(error, data))


def probe(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Probe | Refused:
    """Format and size from the header (of ``data`` or of its beginning), without decoding."""
    try:
        with _open(data, max_pixels) as image:
            return Probe(_format(image), *image.size)
    except Exception as error:  # noqa: BLE001 - as above
        return Refused(_reason(error, data))


class _TooManyPixelsError(Exception):
    pass


def _open(data: bytes, max_pixels: int) -> Image.Image:
    """The picture with its header read, its size within the limit and no pixel allocated."""
    # Pillow's WebP reader allocates the canvas when it opens, so that header is read here first.
    width, height = _webp_size(data)
    if width * height > max_pixels:
        raise _TooManyPixelsError
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    width, height = image.size
    tags = getattr(image, "tag_v2", None)
    tile = int(tags.get(_TILE_WIDTH, 0)) * int(tags.get(_TILE_LENGTH, 0)) if tags else 0
    # A small TIFF may claim huge tiles, and those are what gets allocated.
    if width * height > max_pixels or tile > max_pixels:
        image.close()
        raise _TooManyPixelsError
    return image


def _fraction(size: tuple[int, int], enough: int) -> int:
    return max((k for k in (1, 2, 4, 8) if enough and size[0] * size[1] >= enough * k * k), default=1)


def _webp_size(data: bytes) -> tuple[int, int]:
    """Canvas size from a WebP header; (0, 0) where there is none."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or len(data) < 30:
        return 0, 0
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        bits = struct.unpack("<I", data[21:25])[0]
        return 1 + (bits & 0x3FFF), 1 + ((bits >> 14) & 0x3FFF)
    width, height = struct.unpack("<HH", data[26:30])
    return width & 0x3FFF, height & 0x3FFF


def _format(image: Image.Image) -> str:
    # A JPEG with several pictures inside (a phone's depth map, a stereo pair) opens as MPO; the first one counts.
    return "JPEG" if image.format == "MPO" else str(image.format)


def _frames(image: Image.Image, found: str) -> int:
    if found in ("GIF", "TIFF"):
        return 2 if getattr(image, "is_animated", False) else 1
    return int(getattr(image, "n_frames", 1))


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except Exception:  # noqa: BLE001 - broken EXIF says nothing about the pixels
        orientation = None
    turn = _TRANSPOSE.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        # Pillow's own conversion clips at 255 and would give white.
        return Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        values = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0.0, neginf=0.0)
        low, high = float(values.min()), float(values.max())
        stretched = (values - low) * (255.0 / (high - low)) if high > low else np.zeros_like(values)
        return Image.fromarray(stretched.round().astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        over = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", over.size, "white"), over).convert("RGB")
    return image.convert("RGB")


def _reason(error: Exception, data: bytes) -> str:
    if isinstance(error, _TooManyPixelsError | Image.DecompressionBombError):
        return "too many pixels"
    if not data:
        return "empty"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP" and len(data) < 8 + int.from_bytes(data[4:8], "little"):
        return "truncated"
    text = str(error).lower()
    if not isinstance(error, UnidentifiedImageError):
        ended = any(word in text for word in ("truncated", "unexpected end", "not enough", "end of file", "too short"))
        return "truncated" if ended or isinstance(error, EOFError) else "damaged"
    return _sniff(data)


def _sniff(data: bytes) -> str:
    """What bytes that no opener took are."""
    head = data[:4096].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith(b"<"):
        if b"<svg" in head:
            return "svg"
        page = any(tag in head for tag in (b"<!doctype html", b"<html", b"<head", b"<body"))
        return "html" if page else "not an image"
    if (data[:4] == b"RIFF" and data[8:12] == b"WEBP") or data[4:12] in (b"ftypavif", b"ftypavis"):
        return "damaged"
    if data.startswith(_FOREIGN) or data[4:8] == b"ftyp":
        return "unsupported format"
    if data.startswith(_SIGNATURES):
        return "damaged" if len(data) > 64 else "truncated"
    return "not an image"
