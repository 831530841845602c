"""Folders of pictures with planted copies, damage and odd names, for the tests of the verbs."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from dinov2_core.curation import planting
from tests.pictures import encoded, part, photos

FAST = ["--weights", "sscd_distilled", "--side", "128", "--workers", "1"]


def photo(index: int) -> np.ndarray:
    """A CIFAR-10 picture at 64 pixels."""
    return np.asarray(Image.fromarray(photos()[index]).resize((64, 64), Image.Resampling.BICUBIC))


def pool(place: Path, count: int = 16) -> Path:
    """``count`` pictures in ``a``; copies of the first four and one with equal pixels in ``b``; five broken files."""
    part("sscd_distilled")
    for name in ("a", "b"):
        (place / name).mkdir(parents=True)
    for i in range(count):
        (place / f"a/{i:02d}.png").write_bytes(encoded(photo(i)))
    for i, kind in enumerate(("crop", "jpeg", "colour", "resize")):
        (place / f"b/{kind}.jpg").write_bytes(encoded(planting.plant(photo(i), kind, i), "JPEG", quality=90))
    (place / "b/same.bmp").write_bytes(encoded(photo(0), "BMP"))
    (place / "b/empty.jpg").write_bytes(b"")
    (place / "b/cut.png").write_bytes(encoded(photo(5))[:900])
    (place / "b/page.gif").write_bytes(b"<html><body>no picture</body></html>")
    (place / "b/wrong.jpg").write_bytes(encoded(photo(20)))
    with open(os.fsencode(str(place / "b")) + b"/odd\xff.png", "wb") as file:
        file.write(encoded(photo(21)))
    return place


def as_tar(place: Path, source: Path) -> Path:
    """The pictures of ``source/a`` in a tar, one of them under a name that points outside."""
    place.mkdir()
    with tarfile.open(place / "x.tar", "w") as made:
        for file in sorted((source / "a").iterdir()):
            info = tarfile.TarInfo(f"../../{file.name}" if file.name == "00.png" else file.name)
            info.size = file.stat().st_size
            made.addfile(info, io.BytesIO(file.read_bytes()))
    return place


def as_parquet(place: Path, source: Path) -> Path:
    """The pictures of ``source/a`` in a Parquet file."""
    place.mkdir()
    files = sorted((source / "a").iterdir())
    table = pa.table({"path": [f.name for f in files], "bytes": [f.read_bytes() for f in files]})
    pq.write_table(table, place / "x.parquet")
    return place


def rows(path: Path) -> list[dict[str, object]]:
    found: list[dict[str, object]] = pq.read_table(path).to_pylist()
    return found
