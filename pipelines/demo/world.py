"""The small web of the demo and the truth about it: what was planted where, so that every stage can be scored.

Everything is drawn with one seed: the same recipe gives the same bytes. The folder appears whole or not at all.
"""

from __future__ import annotations

import io
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from dinov2_core import config
from dinov2_core.images.shards import image_id
from dinov2_core.progress import track
from pipelines.demo import hostile, pictures, site
from pipelines.demo.hostile import Answer
from pipelines.demo.pictures import CLASSES, encode
from pipelines.demo.planting import CHANGES, LIGHT, planted

BATCHES = ("2026-01", "2026-02", "2026-03")
SHARES = (0.45, 0.40, 0.15)
BLOCKED = "ads.blocked.example"
WALL_REFERENCES = 10_000
VERSION = "6"
"""Of this file and its neighbours: a world of another version is built again."""

TRUTH = pa.schema(
    [
        ("url", pa.string()),
        ("image_id", pa.string()),  # of the bytes served; null where nothing whole is served
        ("batch", pa.string()),
        ("kind", pa.string()),  # cifar photo junk copy exact leak restricted broken odd nsfw face
        ("size", pa.string()),  # small (32 px) | large
        ("origin_id", pa.string()),  # copy, exact: the pool image; leak: the benchmark image
        ("transformation", pa.string()),
        ("label", pa.string()),
    ]
)


@dataclass(frozen=True)
class Recipe:
    """How much of each there is."""

    cifar: int = 4000
    photos: int = 170
    emoji: int = 600
    textures: int = 180
    small_copies: int = 160
    large_copies: int = 64
    exact_copies: int = 40
    leaks: int = 64
    restricted: int = 20
    seeds_a_class: int = 50
    gallery: int = 5000
    test: int = 2000
    photo_side: int = 384
    seed: int = 0


TINY = Recipe(120, 24, 16, 16, 16, 8, 4, 8, 4, 6, 100, 60, 160)
"""A world for tests: seconds and not minutes."""


@dataclass
class World:
    """What is being built: answers by URL, rows of truth, image URLs by (batch, host)."""

    recipe: Recipe
    answers: dict[str, Answer] = field(default_factory=dict)
    truth: list[dict[str, str | None]] = field(default_factory=list)
    shown: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def show(self, batch: str, host: str, path: str, answer: Answer, kind: str, **about: str | None) -> str:
        """Put an image on the web and on a page of its host; returns its URL."""
        url = f"http://{host}{path}"
        self.answers[url] = answer
        self.shown.setdefault((batch, host), []).append(url)
        whole = answer.body and answer.status == 200 and answer.behaviour in ("", "flaky")
        self.truth.append(
            {"url": url, "image_id": image_id(answer.body) if whole else None, "batch": batch, "kind": kind, **about}
        )
        return url


def build(folder: Path, recipe: Recipe = Recipe(), say: Callable[[str], None] = lambda text: None) -> Path:
    """Build the world in ``folder`` unless this very one is there; returns the folder.

    It holds ``sources/BATCH`` (WARC files and lists of live pages), ``seeds`` and ``benchmarks`` (labelled tars),
    ``site.parquet`` (what the server answers), ``blocklist.txt`` and ``truth.parquet``.
    """
    tag = config.digest([asdict(recipe), VERSION])
    if (folder / "built").exists() and (folder / "built").read_text() == tag:
        return folder
    say("building the small web")
    temporary = folder.with_name(folder.name + ".building")
    for old in (temporary, folder):
        shutil.rmtree(old, ignore_errors=True)
    temporary.mkdir(parents=True)
    world, rng = World(recipe), np.random.default_rng(recipe.seed)
    cifar = pictures.cifar()
    order = rng.permutation(len(cifar.train))
    pool, rest = order[: recipe.cifar], order[recipe.cifar :]
    test = rng.permutation(len(cifar.test))[: recipe.test]
    seeds = _balanced(rest, cifar.train_labels, recipe.seeds_a_class)
    taken = set(seeds.tolist())
    gallery = np.array([i for i in rest if i not in taken][: recipe.gallery])

    originals = _pool_pictures(world, rng, cifar, pool)
    large = _large_pictures(world, rng)
    _copies(world, rng, originals, "small", recipe.small_copies)
    _copies(world, rng, large, "large", recipe.large_copies)
    _exact(world, rng, originals + large)
    _leaks(world, rng, cifar, test)
    _junk(world, rng)
    _strangers(world, rng)

    _write_set(temporary / "seeds" / "cifar10", cifar.train, cifar.train_labels, seeds)
    _write_set(temporary / "benchmarks" / "cifar10" / "train", cifar.train, cifar.train_labels, gallery)
    _write_set(temporary / "benchmarks" / "cifar10" / "test", cifar.test, cifar.test_labels, test)
    _write_sources(world, temporary)
    pq.write_table(pa.Table.from_pylist(world.truth, schema=TRUTH), temporary / "truth.parquet")
    (temporary / "blocklist.txt").write_text(f"# domains that are never fetched\n0.0.0.0 {BLOCKED.split('.', 1)[1]}\n")
    (temporary / "built").write_text(tag)
    temporary.replace(folder)
    return folder


def _balanced(order: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    return np.concatenate([order[labels[order] == c][:count] for c in range(len(CLASSES))])


def _batch(rng: np.random.Generator) -> str:
    return str(rng.choice(BATCHES, p=SHARES))


def _png(pixels: np.ndarray) -> Answer:
    return Answer(encode(pixels), "image/png")


@dataclass(frozen=True)
class Original:
    """A pool picture that copies may be planted of."""

    image_id: str
    image: Image.Image
    label: str | None
    batch: str


def _pool_pictures(world: World, rng: np.random.Generator, cifar: pictures.Cifar, pool: np.ndarray) -> list[Original]:
    made = []
    for number, index in enumerate(track(pool, "building the small web: pictures")):
        pixels, label = cifar.train[index], CLASSES[cifar.train_labels[index]]
        batch = _batch(rng)
        as_jpeg = rng.random() < 0.3
        answer = Answer(encode(pixels, "JPEG", quality=95, subsampling=0)) if as_jpeg else _png(pixels)
        host = ("photos.example", "gallery.example", "shop.example")[number % 3]
        path = f"/{batch}/{number:05d}.{'jpg' if as_jpeg else 'png'}"
        world.show(batch, host, path, answer, "cifar", size="small", label=label)
        made.append(Original(image_id(answer.body), Image.fromarray(pixels), label, batch))
    return made


def _large_pictures(world: World, rng: np.random.Generator) -> list[Original]:
    made = []
    files = pictures.photo_files()[: min(world.recipe.photos, pictures.FIRST_SPARE)]
    for name, place in track(files, "building the small web: photos"):
        image = pictures.shrunk(place, world.recipe.photo_side)
        batch, answer = _batch(rng), Answer(encode(image, "JPEG", quality=90))
        world.show(batch, "museum.example", f"/{batch}/{name}.jpg", answer, "photo", size="large")
        made.append(Original(image_id(answer.body), image, None, batch))
    return made


def _copies(world: World, rng: np.random.Generator, originals: list[Original], size: str, count: int) -> None:
    names = list(CHANGES)
    for number, index in enumerate(rng.permutation(len(originals))[:count]):
        original, name = originals[index], names[number % len(names)]
        batch, answer = _batch(rng), Answer(planted(original.image, name, rng))
        about = {"size": size, "origin_id": original.image_id, "transformation": name, "label": original.label}
        world.show(batch, "mirror.example", f"/{batch}/{size}-{number:04d}.jpg", answer, "copy", **about)


def _exact(world: World, rng: np.random.Generator, originals: list[Original]) -> None:
    bodies = {r["image_id"]: r["url"] for r in world.truth}
    for number, index in enumerate(rng.permutation(len(originals))[: world.recipe.exact_copies]):
        original = originals[index]
        answer = world.answers[str(bodies[original.image_id])]
        suffix = answer.content_type.rsplit("/", 1)[-1]
        about = {
            "size": "small" if original.label else "large",
            "origin_id": original.image_id,
            "label": original.label,
        }
        path = f"/{original.batch}/again-{number:04d}.{suffix}"
        world.show(original.batch, "mirror.example", path, answer, "exact", transformation="same bytes", **about)


def _leaks(world: World, rng: np.random.Generator, cifar: pictures.Cifar, test: np.ndarray) -> None:
    for number, index in enumerate(rng.permutation(test)[: world.recipe.leaks]):
        pixels, batch = cifar.test[index], _batch(rng)
        name = ("encoding", *LIGHT)[number % (1 + len(LIGHT))]
        if name == "encoding":
            answer = Answer(encode(pixels, "WEBP", lossless=True), "image/webp")
        else:
            answer = Answer(planted(Image.fromarray(pixels), name, rng))
        about = {
            "origin_id": image_id(encode(pixels)),
            "transformation": name,
            "label": CLASSES[cifar.test_labels[index]],
        }
        world.show(batch, "leaky.example", f"/{batch}/{number:04d}.img", answer, "leak", size="small", **about)


def _junk(world: World, rng: np.random.Generator) -> None:
    made = [*pictures.emoji(world.recipe.emoji, rng), *pictures.textures(world.recipe.textures, rng)]
    for number, image in enumerate(made):
        batch = _batch(rng)
        world.show(batch, "shop.example", f"/{batch}/junk-{number:04d}.png", Answer(encode(image), "image/png"), "junk")


def _strangers(world: World, rng: np.random.Generator) -> None:
    """Restricted, broken, odd, bare skin, faces; and a page with ten thousand references."""
    side = world.recipe.photo_side
    # From the end of the list: the museum shows the first ones.
    spare = [pictures.shrunk(place, 220) for _, place in pictures.photo_files()[-9:]]
    first = BATCHES[0]
    for number in range(world.recipe.restricted):
        answer = Answer(encode(spare[0], "JPEG", quality=50 + number))
        world.show(_batch(rng), BLOCKED, f"/ad-{number:03d}.jpg", answer, "restricted", size="large")
    for path, answer in hostile.broken(spare[0]).items():
        world.show(first, "broken.example", path, answer, "broken", transformation=path.strip("/"))
    # Mirrored and cut, so that they are not copies of the museum's pictures in the same shape.
    for path, answer in hostile.odd(spare).items():
        world.show(BATCHES[1], "odd.example", path, answer, "odd", size="large", transformation=path.strip("/"))
    answer = Answer(encode(pictures.plate(), "JPEG", quality=95))
    world.show(BATCHES[1], "plates.example", "/walking.jpg", answer, "nsfw", size="large")
    for number, image in enumerate(pictures.faces(max(side, 512))):
        answer = Answer(encode(image, "JPEG", quality=92))
        world.show(BATCHES[1], "people.example", f"/group-{number}.jpg", answer, "face", size="large")


def _write_set(folder: Path, images: np.ndarray, labels: np.ndarray, indices: np.ndarray) -> None:
    """A labelled set as one tar: ``KEY.png`` beside ``KEY.cls``."""
    folder.mkdir(parents=True)
    with tarfile.open(folder / "images-00000.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for index in indices:
            for suffix, data in (("png", encode(images[index])), ("cls", CLASSES[labels[index]].encode())):
                info = tarfile.TarInfo(f"{index:06d}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def _write_sources(world: World, folder: Path) -> None:
    for batch in BATCHES:
        pages: list[site.Page] = []
        for (of, host), images in sorted(world.shown.items()):
            if of == batch:
                made = site.pages_of(f"www.{host}", f"{host} {batch}", images, live_every=4)
                pages += [site.Page(p.url.replace("/page-", f"/{batch}/page-"), p.body, p.archived) for p in made]
        if batch == BATCHES[0]:
            few = world.shown[(batch, "photos.example")][:40]
            url = f"http://wall.example/{batch}/wall.html"
            pages.append(site.Page(url, site.wall(url, few, WALL_REFERENCES), archived=False))
        place = folder / "sources" / batch
        place.mkdir(parents=True)
        (place / "pages.warc.gz").write_bytes(site.warc(p for p in pages if p.archived))
        (place / "live.txt").write_text("".join(f"{p.url}\n" for p in pages if not p.archived))
        for page in pages:
            world.answers[page.url] = Answer(page.body, "text/html; charset=utf-8")
    rows = [{"url": url, **asdict(a), "headers": list(a.headers.items())} for url, a in world.answers.items()]
    schema = pa.schema(
        [
            ("url", pa.string()),
            ("body", pa.binary()),
            ("content_type", pa.string()),
            ("status", pa.int32()),
            ("headers", pa.map_(pa.string(), pa.string())),
            ("behaviour", pa.string()),
        ]
    )
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / "site.parquet", compression="none")
