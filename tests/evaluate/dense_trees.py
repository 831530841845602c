"""Tiny data sets in the exact layouts of the official ones, for the tests of adapters and probes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def write(path: Path, values: np.ndarray) -> Path:
    """A picture file of ``values``; 16-bit where they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def scene(rng: np.random.Generator, height: int = 48, width: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """A picture of a red rectangle on blue with noise, and where the rectangle is (1)."""
    mask = np.zeros((height, width), np.uint8)
    top, left = rng.integers(0, height // 2), rng.integers(0, width // 2)
    mask[top : top + height // 2, left : left + width // 2] = 1
    pixels = np.where(mask[..., None] == 1, np.uint8([220, 40, 30]), np.uint8([30, 60, 210]))
    return (pixels + rng.integers(0, 30, pixels.shape)).astype(np.uint8), mask


def ade20k(root: Path, count: int = 3) -> Path:
    base = root / "ADEChallengeData2016"
    rng = np.random.default_rng(0)
    for part, short in (("training", "train"), ("validation", "val")):
        for i in range(1, count + 1):
            pixels, mask = scene(rng)
            mask = mask + 1
            mask[0, 0] = 0
            write(base / "images" / part / f"ADE_{short}_{i:08d}.jpg", pixels)
            write(base / "annotations" / part / f"ADE_{short}_{i:08d}.png", mask)
    return root


def cityscapes(root: Path, count: int = 2) -> Path:
    rng = np.random.default_rng(0)
    for part, city in (("train", "aachen"), ("val", "munster")):
        for i in range(count):
            pixels, mask = scene(rng)
            stem = f"{city}_{i:06d}_000019"
            write(root / "leftImg8bit" / part / city / f"{stem}_leftImg8bit.png", pixels)
            labels = np.where(mask == 1, 26, 7).astype(np.uint8)
            labels[0, 0] = 3
            write(root / "gtFine" / part / city / f"{stem}_gtFine_labelIds.png", labels)
            write(root / "gtFine" / part / city / f"{stem}_gtFine_instanceIds.png", labels)
    return root


def voc(root: Path, count: int = 2, *, augmented: bool = False) -> Path:
    base = root / "VOCdevkit" / "VOC2012"
    lists = base / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part in ("train", "val"):
        stems = [f"2007_{part}{i:04d}" for i in range(count)]
        (lists / f"{part}.txt").write_text("\n".join(stems) + "\n")
        for stem in stems:
            pixels, mask = scene(rng)
            write(base / "JPEGImages" / f"{stem}.jpg", pixels)
            mask[0, 0] = 255
            for folder in ("SegmentationClass", "SegmentationClassAug")[: 2 if augmented else 1]:
                target = base / folder / f"{stem}.png"
                target.parent.mkdir(exist_ok=True)
                image = Image.fromarray(mask * np.uint8(1), mode="P")
                image.putpalette([0, 0, 0, 128, 0, 0] + [0] * 762)
                image.save(target)
    if augmented:
        (lists / "train_aug.txt").write_text((lists / "train.txt").read_text())
    return root


def masks(root: Path, count: int = 8) -> Path:
    """The layout of anybody's own pictures."""
    rng = np.random.default_rng(0)
    for part in ("train", "val"):
        for i in range(count):
            pixels, mask = scene(rng)
            write(root / "images" / part / f"{i}.png", pixels)
            write(root / "masks" / part / f"{i}.png", mask)
    (root / "classes.txt").write_text("ground\nthing\n")
    return root


def slope(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture that is darker the farther, and its depth in metres (1 to 5)."""
    metres = np.linspace(1, 5, width)[None] * np.ones((height, 1))
    if rng.random() < 0.5:
        metres = metres[:, ::-1]
    grey = 250 - 45 * metres + rng.normal(0, 2, metres.shape)
    return np.repeat(grey[..., None], 3, axis=2).clip(0, 255).astype(np.uint8), metres


def nyu(root: Path, count: int = 2) -> Path:
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        found = []
        for i in range(count):
            pixels, metres = slope(rng, 480, 640)
            write(root / part / "kitchen_0001" / f"rgb_{i:05d}.jpg", pixels)
            write(root / part / "kitchen_0001" / f"sync_depth_{i:05d}.png", (metres * 1000).astype(np.uint16))
            found.append(f"/{part}/kitchen_0001/rgb_{i:05d}.jpg /{part}/kitchen_0001/sync_depth_{i:05d}.png 518.8579")
        (root / f"nyu_{part}.txt").write_text("\n".join(found) + "\n")
    return root


def kitti(root: Path) -> Path:
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        pixels, metres = slope(rng, 375, 1242)
        drive = "2011_09_26_drive_0002_sync"
        write(root / "input" / "2011_09_26" / drive / "image_02/data/0000000069.png", pixels)
        depth = (metres * 256).astype(np.uint16)
        depth[:30] = 0
        write(root / "gt_depth" / drive / "proj_depth/groundtruth/image_02/0000000069.png", depth)
        line = f"2011_09_26/{drive}/image_02/data/0000000069.png"
        truth = f"{drive}/proj_depth/groundtruth/image_02/0000000069.png"
        (root / f"kitti_eigen_{part}.txt").write_text(f"{line} {truth} 721.5377\n{line} None 721.5377\n")
    return root


def sun(root: Path) -> Path:
    pixels, metres = slope(np.random.default_rng(0), 40, 50)
    millimetres = (metres * 1000).astype(np.uint16)
    write(root / "kv1/x/image/a.jpg", pixels)
    write(root / "kv1/x/depth_bfx/a.png", (millimetres << 3) | (millimetres >> 13))
    (root / "SUNRGBD_val_splits.txt").write_text("kv1/x/image/a.jpg kv1/x/depth_bfx/a.png\n")
    return root


def castle(root: Path, count: int = 5) -> Path:
    for i in range(1, count + 1):
        pixels, _ = slope(np.random.default_rng(i), 40, 50)
        write(root / "Images" / f"Image_{i:04d}.pgm", pixels[..., 0])
        depth = np.full((40, 50), 16_384, "<u2")
        (root / "Depth").mkdir(exist_ok=True)
        (root / "Depth" / f"Depth_{i:04d}.bin").write_bytes(np.array([40, 50], "<u4").tobytes() + depth.tobytes())
    return root
