"""Pictures for tests: smooth random fields, real photographs, and a raw_crawl partition that holds some."""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinov2_core import manifest, parts, tables
from dinov2_core.errors import UserError
from dinov2_core.images.shards import ShardWriter
from dinov2_core.manifest import Manifest
from dinov2_core.storage import FileRecord, Store


def field(seed: int, height: int = 32, width: int = 32) -> np.ndarray:
    """uint8 H×W×3: coarse noise enlarged, with finer noise on it."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)).resize((width, height), Image.BICUBIC)
    fine = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).resize((width, height), Image.BICUBIC)
    return np.asarray(Image.blend(coarse, fine, 0.35))


@functools.cache
def photos() -> np.ndarray:
    """uint8 [10000, 32, 32, 3]: real photographs, the test split of CIFAR-10."""
    with Image.open(part("cifar10") / "test_batch.png") as sheet:
        return np.asarray(sheet.convert("RGB")).reshape(-1, 32, 32, 3)


def encoded(pixels: np.ndarray, kind: str = "PNG", **options: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind, **options)
    return out.getvalue()


def crawled(store: Store, images: Sequence[bytes], partition: str = "b1") -> list[str]:
    """Write ``images`` as what raw_crawl leaves; returns their ids."""
    with ShardWriter(store, f"raw_crawl/{partition}") as writer:
        ids = [writer.add(data, "bin") for data in images]
    rows = [
        {"image_id": name, "status": "stored", "reason": "", "bytes": place["length"], **place}
        for name, place in writer.locations.items()
    ]
    record = store.write_table(f"raw_crawl/{partition}/images-x-00000.parquet", tables.from_rows(rows, tables.IMAGES))
    finished(store, "raw_crawl", partition, [*writer.files, record])
    return ids


def finished(store: Store, stage: str, partition: str, files: Sequence[FileRecord], **params: object) -> None:
    """A manifest as an upstream stage would leave it."""
    digest = "-".join(f.sha256[:8] for f in files)
    manifest.write(store, Manifest(stage, partition, digest, params, {}, tuple(files)))


def part(name: str) -> Path:
    """The part, or skip the test."""
    try:
        return parts.path(name)
    except UserError:
        pytest.skip(f"the part '{name}' is not there: run `make parts`")
