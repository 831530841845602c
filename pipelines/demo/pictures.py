"""The demo's real pictures, as arrays or encoded bytes, in a fixed order.

CIFAR-10, photographs and paintings, emoji on coloured grounds, and banners. What is done with them (pages, planted
copies) does not belong here.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dinov2_core import parts

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


def plates(count: int, side: int) -> list[Image.Image]:
    """Cells of Muybridge's plate of a walking man (1887): lawful pictures of bare skin."""
    place = next(iter(sorted(p for p in parts.path("stdlib").rglob("image.jpg") if "locomotion-nude" in str(p))))
    with Image.open(place) as image:
        whole = image.convert("RGB")
    columns, rows = 8, 6
    width, height = whole.width // columns, whole.height // rows
    cells = [(c * width, r * height, (c + 1) * width, (r + 1) * height) for r in range(rows) for c in range(columns)]
    chosen = cells[:: max(len(cells) // count, 1)][:count]
    return [whole.crop(box).resize((side, side * height // width), Image.Resampling.BICUBIC) for box in chosen]


def emoji(count: int, rng: np.random.Generator) -> list[Image.Image]:
    """``count`` emoji of one vendor on coloured grounds, no two alike (skin tones and clock faces are many of one)."""
    places = sorted((parts.path("emoji") / "Goog").rglob("*.png"))
    places = [places[i] for i in rng.permutation(len(places))]
    kept: list[Image.Image] = []
    seen = np.zeros((0, 3 * 12 * 12), np.float32)
    for place in places:
        if len(kept) == count:
            break
        with Image.open(place) as image:
            cut = image.convert("RGBA")
        thumb = np.asarray(_on_ground(cut, (128, 128, 128)).resize((12, 12)), np.float32).ravel()
        thumb = (thumb - thumb.mean()) / (np.linalg.norm(thumb - thumb.mean()) + 1e-6)
        if len(seen) and float((seen @ thumb).max()) > 0.75:
            continue
        seen = np.vstack([seen, thumb[None]])
        ground = tuple(int(v) for v in rng.integers(0, 256, 3))
        kept.append(_on_ground(cut, ground))
    return kept


def _on_ground(cut: Image.Image, ground: tuple[int, ...]) -> Image.Image:
    made = Image.new("RGB", cut.size, ground)
    made.paste(cut, mask=cut.getchannel("A"))
    return made


WORDS = (
    *("sale", "free", "now", "click", "win", "best", "offer", "cheap", "flights", "login", "cart", "share", "menu"),
    *("search", "weather", "news", "sport", "casino", "loans", "diet", "phone", "deal", "hotel", "vote", "radio"),
    *("maps", "video", "games", "tickets", "shoes", "watch", "bank", "car", "insurance"),
)


def banners(count: int, rng: np.random.Generator) -> list[Image.Image]:
    """Advertisements and buttons: words on two colours, all different."""
    made = []
    for _ in range(count):
        width, height = int(rng.integers(100, 300)), int(rng.integers(50, 120))
        one, two, ink = (tuple(int(v) for v in rng.integers(0, 256, 3)) for _ in range(3))
        image = Image.new("RGB", (width, height), one)
        draw = ImageDraw.Draw(image)
        left = int(rng.integers(0, width // 2))
        draw.rectangle((left, 0, left + width // 2, height), fill=two)
        for _ in range(int(rng.integers(1, 5))):
            text = " ".join(WORDS[int(i)] for i in rng.integers(0, len(WORDS), 2))
            place = (int(rng.integers(0, width // 2)), int(rng.integers(0, height - 10)))
            draw.text(place, text, fill=ink, font=ImageFont.load_default(int(rng.integers(10, 30))))
        made.append(image)
    return made
