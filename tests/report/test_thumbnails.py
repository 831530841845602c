"""Thumbnails: small, faithful where small already, unreadable where veiled, the same bytes every time."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from dinov2_core.images.shards import ShardWriter
from dinov2_core.report.thumbnails import SIDE, Thumbnail, Thumbnails, make
from dinov2_core.storage import Store


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def pixels_of(thumbnail: Thumbnail) -> np.ndarray:
    head, text = thumbnail.source.split(",", 1)
    assert head in ("data:image/png;base64", "data:image/jpeg;base64")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB"))


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def test_tiny_pictures_are_kept_pixel_for_pixel() -> None:
    picture = noise(32, 32)
    made = make(encoded(picture))
    assert made.tiny
    assert np.array_equal(pixels_of(made), picture)


def test_large_pictures_shrink_and_keep_their_shape() -> None:
    made = make(encoded(noise(400, 800)))
    assert (made.width, made.height) == (SIDE, SIDE // 2)
    assert pixels_of(made).shape == (SIDE // 2, SIDE, 3)
    assert not made.tiny


def test_a_veil_leaves_colours_and_nothing_to_read() -> None:
    # Stripes two pixels wide are black and white; under the veil all is grey.
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::4] = stripes[:, 1::4] = 255
    for side in (32, 256):
        plain, veiled = (pixels_of(make(encoded(stripes[:side, :side]), veiled=v)).astype(float) for v in (False, True))
        assert plain[..., 0].std() > 80 or side == 256  # shrunk, the stripes are grey already
        assert veiled[..., 0].std() < 25
        assert max(veiled.shape) == SIDE


def test_what_does_not_decode_is_an_empty_frame() -> None:
    assert make(b"<svg onload=alert(1)>").source == ""


def test_stored_images_are_read_by_their_location_and_once(store: Store) -> None:
    with ShardWriter(store, "x") as writer:
        names = [writer.add(encoded(noise(40 + i, 40)), "png") for i in range(3)]
    thumbnails = Thumbnails(store)
    made = [thumbnails.of(writer.locations[name]) for name in names]
    assert [t.height for t in made] == [40, 41, 42]
    assert thumbnails.of(writer.locations[names[1]]) is made[1]
    assert thumbnails.of(writer.locations[names[1]], veiled=True) != made[1]


def test_equal_bytes_give_equal_thumbnails() -> None:
    data = encoded(noise(300, 200), "JPEG")
    assert make(data) == make(data)
