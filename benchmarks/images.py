"""Shard read, decode and resize, images a second on one core: ours against torchvision's ImageFolder and webdataset.

    python -m benchmarks.images [--images 1000] [--side 640] [--size 224] [--rounds 5]

The same JPEG files for all: as loose files in class folders for ImageFolder, as one tar for webdataset, as our shard
with its rows for ours. Each gives uint8 [3, S, S], from files in the page cache, in one process with one thread, in
turn. ImageFolder and webdataset use the usual transforms, resize the shorter side and crop the centre, by Pillow.
Where webdataset is not installed its row says so: `uv pip install webdataset` in an environment of its own will do.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def pictures(count: int, side: int) -> list[bytes]:
    """JPEGs of about the statistics of photos: smooth structure with some noise; 3:4."""
    random = np.random.default_rng(0)
    made = []
    for _ in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (12, 16, 3), np.uint8))
        smooth = np.asarray(coarse.resize((side, side * 3 // 4), Image.Resampling.BICUBIC), np.float32)
        noise = random.normal(0, 6, smooth.shape)
        buffer = io.BytesIO()
        Image.fromarray((smooth + noise).clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=88)
        made.append(buffer.getvalue())
    return made


def ours(folder: Path, images: list[bytes], size: int) -> Callable[[], int]:
    from dinov2_core.images.pool import load_pool
    from dinov2_core.images.shards import ShardWriter
    from dinov2_core.storage import Store

    store = Store(str(folder / "store"))
    writer = ShardWriter(store, "shards", max_images=len(images) + 1)
    with writer:
        names = [writer.add(data, "jpg") for data in images]
    rows = [{"image_id": name, **writer.locations[name]} for name in names]

    def read() -> int:
        return len(load_pool(store, rows, size).pixels)

    return read


def usual(size: int) -> Any:
    from torchvision import transforms as t

    return t.Compose([t.Resize(size, interpolation=t.InterpolationMode.BICUBIC), t.CenterCrop(size), t.PILToTensor()])


def image_folder(folder: Path, images: list[bytes], size: int) -> Callable[[], int]:
    from torchvision.datasets import ImageFolder

    for index, data in enumerate(images):
        place = folder / "loose" / f"class-{index % 10}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{index:06d}.jpg").write_bytes(data)
    data_set = ImageFolder(str(folder / "loose"), transform=usual(size))
    return lambda: sum(len(data_set[i][0]) > 0 for i in range(len(data_set)))


def webdataset(folder: Path, images: list[bytes], size: int) -> Callable[[], int]:
    import tarfile

    import webdataset as wds

    with tarfile.open(folder / "web.tar", "w") as tar:
        for index, data in enumerate(images):
            info = tarfile.TarInfo(f"{index:06d}.jpg")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    change = usual(size)

    def read() -> int:
        data_set = wds.WebDataset(str(folder / "web.tar"), shardshuffle=False).decode("pil").to_tuple("jpg")
        return sum(len(change(image)) > 0 for (image,) in data_set)

    return read


KINDS = {"ours": ours, "ImageFolder": image_folder, "webdataset": webdataset}


def measured(images: list[bytes], size: int, rounds: int) -> Iterator[tuple[str, list[float] | None]]:
    """``(name, images a second in each round)``; rounds of all kinds alternate."""
    with tempfile.TemporaryDirectory() as folder:
        readers: dict[str, Callable[[], int]] = {}
        for name, kind in KINDS.items():
            try:
                readers[name] = kind(Path(folder), images, size)
            except ImportError:
                yield name, None
        rates: dict[str, list[float]] = {name: [] for name in readers}
        for turn in range(rounds + 1):
            for name, read in readers.items():
                began = time.process_time()
                assert read() == len(images)
                if turn:  # the first fills the page cache
                    rates[name].append(len(images) / (time.process_time() - began))
        yield from rates.items()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--side", type=int, default=640, help="longer side of the pictures, pixels")
    parser.add_argument("--size", type=int, default=224, help="what they become")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)
    images = pictures(options.images, options.side)
    kilobytes = sum(map(len, images)) / len(images) / 1000
    print(f"{len(images)} JPEGs of {options.side} pixels, {kilobytes:.0f} kB each, to {options.size}; processor time")
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print("| reader | images/s a core | lowest | highest |\n|---|---|---|---|")
    for name, rates in measured(images, options.size, options.rounds):
        cells = [f"{f(rates):.0f}" for f in (statistics.median, min, max)] if rates else ["not installed", "", ""]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
