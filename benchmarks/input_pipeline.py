"""Ten crops from JPEG files: ours against the transforms of PIL and torchvision's first interface.

Images a second of one core, from encoded bytes to the ten crops of 2 × 224 and 8 × 98 pixels, with the released
recipe's colours and blur. Real photos are scaled to 500 pixels on the long side and written as JPEG files first. The
ways alternate, and processor time is counted, so a busy machine slows all alike; the ratio is the median of the runs.
``--read`` measures ranged reads in random order as well, from a local store, to set beside the decoding.
"""

from __future__ import annotations

import argparse
import io
import platform
import statistics
import tempfile
import time
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, ImageFilter
from torchvision import transforms

from dinov2_core import parts
from dinov2_core.images.decode import Decoded, decode
from dinov2_core.images.shards import ShardWriter
from dinov2_core.storage import Store
from dinov2_core.train.image_crops import crop_image, enough_pixels
from dinov2_core.train.recipe import CropConfig
from dinov2_core.train.views import draw

CROPS = CropConfig(local_size=98)
TARGET = 2.5


def photos(count: int) -> list[bytes]:
    """JPEG files of real photos, 500 pixels on the long side, quality 90."""
    found = sorted(p for name in ("interiors", "stdlib") for p in parts.path(name).rglob("*.jp*g"))
    made = []
    for path in found[:count]:
        with Image.open(path) as image:
            small = image.convert("RGB")
        small.thumbnail((500, 500), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=90)
        made.append(buffer.getvalue())
    return made


class PilBlur:
    """The Gaussian blur of PIL, as the programs before DINOv2 used it; faster than torchvision's on PIL images."""

    def __call__(self, image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(float(np.random.uniform(*CROPS.blur_sigma))))  # noqa: NPY002


def first_interface(blur: Callable[[Image.Image], Image.Image]) -> Callable[[bytes], list[torch.Tensor]]:
    """The ten crops with transforms of PIL images, one crop after the other."""
    colours = [
        transforms.RandomApply([transforms.ColorJitter(*CROPS.jitter)], p=CROPS.jitter_probability),
        transforms.RandomGrayscale(p=CROPS.gray),
    ]
    last = [transforms.ToTensor(), transforms.Normalize(CROPS.mean, CROPS.std)]

    def view(size: int, scale: tuple[float, float], blurred: float, solarized: float) -> transforms.Compose:
        cut = transforms.RandomResizedCrop(size, scale=scale, interpolation=transforms.InterpolationMode.BICUBIC)
        steps = [cut, transforms.RandomHorizontalFlip(CROPS.flip), *colours]
        steps += [transforms.RandomApply([blur], p=blurred)] if blurred else []
        steps += [transforms.RandomSolarize(128, p=solarized)] if solarized else []
        return transforms.Compose(steps + last)

    blurs = CROPS.blur_probabilities
    views = [view(CROPS.global_size, CROPS.global_scale, blurs[0], 0.0)]
    views += [view(CROPS.global_size, CROPS.global_scale, blurs[1], CROPS.solarize)]
    views += [view(CROPS.local_size, CROPS.local_scale, blurs[2], 0.0)] * CROPS.locals

    def run(data: bytes) -> list[torch.Tensor]:
        image = Image.open(io.BytesIO(data)).convert("RGB")
        return [v(image) for v in views]

    return run


def ours() -> Callable[[bytes], object]:
    """One image through what a worker does."""
    enough, step = enough_pixels(CROPS), iter(range(1 << 30))

    def run(data: bytes) -> object:
        decoded = decode(data, enough=enough)
        assert isinstance(decoded, Decoded)
        views = draw(CROPS, next(step), range(1), np.array([decoded.pixels.shape[:2]]))
        return crop_image(decoded.pixels, views[0], CROPS)

    return run


def per_image(function: Callable[[bytes], object], files: list[bytes]) -> float:
    """Processor seconds an image."""
    started = time.process_time()
    for data in files:
        function(data)
    return (time.process_time() - started) / len(files)


def reads(files: list[bytes], count: int) -> float:
    """Seconds a ranged read in random order, from shards on this disk."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        with ShardWriter(store, "shards") as writer:
            for i in range(count):
                writer.add(files[i % len(files)], "jpg", f"{i:064d}")
        where = list(writer.locations.values())
        order = np.random.default_rng(0).permutation(len(where))
        started = time.perf_counter()
        for i in order:
            store.read_range(where[i]["shard"], where[i]["offset"], where[i]["length"])
        return (time.perf_counter() - started) / len(where)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=39)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--read", type=int, default=0, help="images to read in random order")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    files = photos(options.images)
    ways: dict[str, Callable[[bytes], object]] = {
        "torchvision v1 on PIL": first_interface(transforms.GaussianBlur(9, CROPS.blur_sigma)),
        "the same, blur of PIL": first_interface(PilBlur()),
        "ours": ours(),
    }
    for function in ways.values():
        per_image(function, files[:3])
    took: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.runs):
        for name, function in ways.items():
            took[name].append(per_image(function, files))
    size = sum(map(len, files)) / len(files) / 1000
    print(f"{len(files)} photos of {size:.0f} kB, one core of {platform.machine()}, median of {options.runs}")
    print("| way | images/s a core | ours is faster by |\n|---|---|---|")
    for name, values in took.items():
        ratio = statistics.median(a / b for a, b in zip(values, took["ours"], strict=True))
        print(f"| {name} | {1 / statistics.median(values):.1f} | {ratio:.2f} |")
    print(f"target: at least {TARGET}")
    if options.read:
        print(f"ranged reads in random order: {1 / reads(files, options.read):.0f} images/s")


if __name__ == "__main__":
    main()
