"""Decoding: every good form comes out as the same upright RGB, every bad one as a reason, and nothing ever raises."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dinov2_core.images.decode import FORMATS, Decoded, Probe, Refused, decode, probe


def picture(width: int = 48, height: int = 32) -> Image.Image:
    """A smooth picture, so that lossy formats stay close; left red, right blue, brighter downwards."""
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([255 - 255 * x // width, 255 * y // height, 255 * x // width], -1)
    return Image.fromarray(pixels.astype(np.uint8))


def encoded(image: Image.Image, form: str, **settings: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **settings)
    return buffer.getvalue()


def pixels_of(data: bytes) -> np.ndarray:
    found = decode(data)
    assert isinstance(found, Decoded), found
    assert found.pixels.dtype == np.uint8
    assert found.pixels.ndim == 3
    return found.pixels


def png_claiming(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    ihdr = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", ihdr) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("form", FORMATS)
def test_each_format_gives_the_same_picture(form: str) -> None:
    data = encoded(picture(), form)
    found = decode(data)
    assert isinstance(found, Decoded)
    assert found.format == form
    assert found.frames == 1
    assert found.pixels.shape == (32, 48, 3)
    assert np.abs(found.pixels.astype(int) - np.asarray(picture()).astype(int)).mean() < 12
    assert probe(data) == Probe(form, 48, 32)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    upright = picture()
    # EXIF names the transformation that the viewer must do; the file holds its inverse.
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    for form in ("PNG", "TIFF"):
        assert np.array_equal(pixels_of(encoded(stored, form, exif=exif)), np.asarray(upright))


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    found = pixels_of(encoded(Image.fromarray(ramp), "PNG"))
    assert np.array_equal(found[..., 0], (ramp >> 8).astype(np.uint8))


def test_float_pictures_are_stretched() -> None:
    values = np.array([[0.0, 0.5], [1.0, np.nan]], np.float32)
    assert pixels_of(encoded(Image.fromarray(values), "TIFF"))[..., 0].tolist() == [[0, 128], [255, 0]]


def test_transparency_is_put_on_white() -> None:
    image = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    image.putpixel((0, 0), (255, 0, 0, 255))
    image.putpixel((1, 0), (255, 0, 0, 128))
    found = pixels_of(encoded(image, "PNG"))
    assert found[0, 0].tolist() == [255, 0, 0]
    assert found[3, 3].tolist() == [255, 255, 255]
    assert found[0, 1].tolist() == pytest.approx([255, 127, 127], abs=1)


def test_a_palette_with_a_transparent_entry_is_put_on_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    assert pixels_of(encoded(image, "PNG", transparency=0))[0].tolist() == [[255, 255, 255], [200, 100, 50]]


def test_cmyk_grey_and_bilevel_become_rgb() -> None:
    grey = np.asarray(picture().convert("L"))
    assert np.array_equal(pixels_of(encoded(picture().convert("L"), "PNG")), np.repeat(grey[..., None], 3, 2))
    assert set(np.unique(pixels_of(encoded(picture().convert("1"), "PNG")))) == {0, 255}
    cmyk = pixels_of(encoded(picture().convert("CMYK"), "JPEG", quality=95)).astype(int)
    assert np.abs(cmyk - np.asarray(picture()).astype(int)).mean() < 6


def test_the_first_frame_of_an_animation() -> None:
    other = Image.eval(picture(), lambda v: 255 - v)
    for form in ("GIF", "WEBP", "PNG"):
        data = encoded(picture(), form, save_all=True, append_images=[other])
        found = decode(data)
        assert isinstance(found, Decoded)
        assert found.frames == 2
        assert np.abs(found.pixels.astype(int) - np.asarray(picture()).astype(int)).mean() < 12


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("part", [0.3, 0.6, 0.9])
def test_a_cut_file_is_truncated(form: str, part: float) -> None:
    rough = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = encoded(rough, form)
    assert decode(data[: int(part * len(data))]) == Refused("truncated")


def jpeg_claiming(side: int) -> bytes:
    data = bytearray(encoded(picture(), "JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", side, side)
    return bytes(data)


BOMBS = {
    "png": png_claiming(50_000, 50_000),
    "jpeg": jpeg_claiming(50_000),
    "gif": b"GIF89a" + struct.pack("<HH", 50_000, 50_000) + encoded(picture(), "GIF")[10:],
    "webp": b"RIFF" + struct.pack("<I", 40) + b"WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\x7f\x3e\0" * 2 + b"\0" * 16,
    "bmp": encoded(picture(), "BMP")[:18] + struct.pack("<ii", 50_000, 50_000) + encoded(picture(), "BMP")[26:],
}


@pytest.mark.parametrize("form", BOMBS)
def test_a_bomb_is_refused_by_its_header(form: str) -> None:
    assert decode(BOMBS[form]) == Refused("too many pixels")
    assert probe(BOMBS[form]) == Refused("too many pixels")


def test_tiff_bombs_by_size_and_by_tile() -> None:
    def tagged(entries: list[tuple[int, int]]) -> bytes:
        body = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
        return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + body + b"\0\0\0\0" + b"\0" * 64

    plain = [(256, 50_000), (257, 50_000), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1), (279, 8)]
    assert decode(tagged(plain)) == Refused("too many pixels")
    tiled = [(256, 1), (257, 1), (258, 8), (259, 1), (262, 1), (277, 1), (322, 60_000), (323, 60_000), (324, 8)]
    assert decode(tagged([*tiled, (325, 8)])) == Refused("too many pixels")


def test_a_jpeg_of_thousands_of_scans_is_refused() -> None:
    data = encoded(picture(), "JPEG", progressive=True)
    assert isinstance(decode(data), Decoded)
    start = data.index(b"\xff\xda")
    assert decode(data[:start] + data[start:-2] * 200 + data[-2:]) == Refused("too many scans")


def test_the_limit_is_a_setting() -> None:
    data = encoded(picture(), "PNG")
    assert isinstance(decode(data, max_pixels=48 * 32), Decoded)
    assert decode(data, max_pixels=48 * 32 - 1) == Refused("too many pixels")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"hello", "not an image"),
        (b"\xef\xbb\xbf <!DOCTYPE html><p>", "html"),
        (b"<html><body>", "html"),
        (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "svg"),
        (b"<svg/>", "svg"),
        (b"%PDF-1.7", "unsupported format"),
        (b"\0\0\0\x18ftypheic" + b"\0" * 99, "unsupported format"),
        (b"\xff\xd8\xff" + b"\0" * 999, "damaged"),
    ],
)
def test_what_is_no_image_says_what_it_is(data: bytes, reason: str) -> None:
    assert decode(data) == Refused(reason)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF"])
def test_a_file_of_two_kinds_is_what_its_beginning_says(form: str) -> None:
    """Pages, scripts and archives behind a picture change no pixel; a picture behind them is none."""
    whole = encoded(picture(), form)
    alone = decode(whole)
    assert isinstance(alone, Decoded)
    for other in (b"<html><script>x()</script>", b"PK\x03\x04" + bytes(60), b"%PDF-1.7 ", b"#!/bin/sh\n"):
        behind = decode(whole + other)
        assert isinstance(behind, Decoded)
        assert np.array_equal(behind.pixels, alone.pixels)
        assert isinstance(decode(other + whole), Refused)


def test_formats_that_are_not_listed_stay_closed() -> None:
    for form in ("PPM", "ICO", "TGA", "PCX"):
        assert isinstance(decode(encoded(picture(), form)), Refused)


WHOLE = [encoded(picture(), form) for form in FORMATS] + [
    encoded(picture().quantize(8), "GIF", save_all=True, append_images=[picture().quantize(4)]),
    encoded(picture(), "JPEG", progressive=True),
    encoded(picture(), "TIFF", compression="tiff_lzw"),
]


@settings(max_examples=400, deadline=None)
@given(
    base=st.sampled_from(WHOLE),
    edits=st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=6)), max_size=6),
    keep=st.floats(0.1, 1),
    tail=st.binary(max_size=8),
)
def test_no_mutation_of_a_real_image_raises(
    base: bytes, edits: list[tuple[float, bytes]], keep: float, tail: bytes
) -> None:
    data = bytearray(base)
    for place, patch in edits:
        at = int(place * (len(data) - 1))
        data[at : at + len(patch)] = patch
    mutated = bytes(data[: int(keep * len(data))]) + tail
    found, header = decode(mutated, max_pixels=1_000_000), probe(mutated, max_pixels=1_000_000)
    if isinstance(found, Decoded):
        assert found.pixels.shape[2] == 3
        assert found.pixels.shape[0] * found.pixels.shape[1] <= 1_000_000
    else:
        assert found.reason
    assert isinstance(header, Probe | Refused)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400))
def test_no_bytes_raise(data: bytes) -> None:
    assert isinstance(decode(data, max_pixels=1_000_000), Decoded | Refused)
