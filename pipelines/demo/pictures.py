"""The demo's real pictures, as arrays or encoded bytes, in a fixed order.

CIFAR-10, photographs and paintings, emoji on coloured grounds, textures. What is done with them (pages, planted
copies) does not belong here.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from dinov2_core import parts

FIRST_SPARE = 170
"""Photos from here on are shown nowhere whole: textures and odd formats are made of them."""
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True)
class Cifar:
    """CIFAR-10: ``train`` uint8 [50000, 32, 32, 3], ``test`` [10000, …], labels as class indices int64."""

    train: np.ndarray
    train_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray


def cifar() -> Cifar:
    """The whole set, from its sheets."""
    folder = parts.path("cifar10")

    def sheet(name: str) -> np.ndarray:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # a sheet of 10,000 pictures, ours
        try:
            with Image.open(folder / name) as image:
                return np.asarray(image).reshape(-1, 32, 32, 3)
        finally:
            Image.MAX_IMAGE_PIXELS = limit

    def labels(name: str) -> np.ndarray:
        return np.array(json.loads((folder / name).read_text()), np.int64)

    train = np.concatenate([sheet(f"data_batch_{i}.png") for i in range(1, 6)])
    return Cifar(train, labels("train_lables.json"), sheet("test_batch.png"), labels("test_lables.json"))


def encode(pixels: np.ndarray | Image.Image, form: str = "PNG", **settings: object) -> bytes:
    """Encoded bytes of an array or image; the same input gives the same bytes."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, form, **settings)
    return buffer.getvalue()


def photo_files() -> list[tuple[str, Path]]:
    """``(name, file)`` of the photographs and paintings; open them with :func:`shrunk`."""
    places = [
        *sorted((parts.path("interiors")).rglob("*.jpg")),
        *sorted((parts.path("wallpapers")).rglob("*.webp")),
        *(p for p in sorted((parts.path("stdlib")).rglob("image.jpg")) if "locomotion-nude" not in str(p)),
    ]
    return [("-".join(place.parts[-2:]).rsplit(".", 1)[0], place) for place in places]


def shrunk(place: Path, side: int) -> Image.Image:
    """The image file as RGB, its longer side at most ``side``."""
    with Image.open(place) as image:
        image.draft("RGB", (side, side))
        made = image.convert("RGB")
    made.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return made


def faces(side: int) -> list[Image.Image]:
    """The left and the right half of a group photograph: different people, no shared pixels."""
    whole = shrunk(parts.path("solvay"), 2 * side)
    middle = whole.width // 2
    return [whole.crop((0, 0, middle, whole.height)), whole.crop((middle, 0, whole.width, whole.height))]


def plate() -> Image.Image:
    """Muybridge's plate of a walking man (1887): a lawful picture of bare skin, small figures on a large sheet."""
    place = next(iter(sorted(p for p in parts.path("stdlib").rglob("image.jpg") if "locomotion-nude" in str(p))))
    with Image.open(place) as image:
        return image.convert("RGB")


SKIN_TONES = ("1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff")


def emoji(count: int, rng: np.random.Generator) -> list[Image.Image]:
    """``count`` emoji of one vendor on coloured grounds, no two alike (skin tones and clock faces are many of one)."""
    files = sorted((parts.path("emoji") / "Goog").rglob("*.png"))
    places = [p for p in files if not any(tone in p.name.lower() for tone in SKIN_TONES)]
    places = [places[i] for i in rng.permutation(len(places))]
    kept: list[Image.Image] = []
    seen = np.zeros((0, 3 * 16 * 16), np.float32)
    for place in places:
        if len(kept) == count:
            break
        with Image.open(place) as image:
            cut = image.convert("RGBA")
        inner = cut.crop(cut.getchannel("A").getbbox())
        thumb = np.asarray(_on_ground(inner, (128, 128, 128)).resize((16, 16)), np.float32).ravel()
        thumb = (thumb - thumb.mean()) / (np.linalg.norm(thumb - thumb.mean()) + 1e-6)
        if len(seen) and float((seen @ thumb).max()) > 0.6:
            continue
        seen = np.vstack([seen, thumb[None]])
        ground = tuple(int(v) for v in rng.integers(0, 256, 3))
        kept.append(_on_ground(cut, ground))
    return kept


def _on_ground(cut: Image.Image, ground: tuple[int, ...]) -> Image.Image:
    made = Image.new("RGB", cut.size, ground)
    made.paste(cut, mask=cut.getchannel("A"))
    return made


def textures(count: int, rng: np.random.Generator, side: int = 96) -> list[Image.Image]:
    """Patches of walls, skies and brush strokes: no two from the same place, none flat."""
    made: list[Image.Image] = []
    for _, place in photo_files()[FIRST_SPARE:]:
        image = shrunk(place, 640)
        boxes = [(x, y) for x in range(0, image.width - side, side) for y in range(0, image.height - side, side)]
        for index in rng.permutation(len(boxes))[:10]:
            x, y = boxes[index]
            patch = image.crop((x, y, x + side, y + side))
            if np.asarray(patch.convert("L"), np.float32).std() > 20:
                made.append(patch)
    return [made[i] for i in rng.permutation(len(made))[:count]]
