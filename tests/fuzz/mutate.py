"""Images damaged at random, sent through decode → screen → embed: no crash, and a reason for each that is refused.

``python -m tests.fuzz.mutate 10000`` runs as many as asked for.
"""

from __future__ import annotations

import sys
from collections import Counter

import numpy as np

from dinov2_core.curation.copy_detection import CopyEmbedder
from dinov2_core.curation.screening import Screen, ScreenRules
from dinov2_core.images.decode import Refused, decode
from dinov2_core.progress import track
from tests.pictures import encoded, field

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
MAX_PIXELS = 4_000_000


def originals() -> list[bytes]:
    """One picture in every format, and progressive, grey and animated relatives of it."""
    made = [encoded(field(i, 24 + 8 * i, 40), kind) for i, kind in enumerate(FORMATS)]
    return [*made, encoded(field(7), "JPEG", progressive=1), encoded(field(8), "WEBP", lossless=1)]


def mutated(sources: list[bytes], rng: np.random.Generator) -> bytes:
    """One of ``sources`` cut, flipped, overwritten, repeated, or spliced with another."""
    data = bytearray(sources[rng.integers(len(sources))])
    for _ in range(int(rng.integers(1, 6))):
        at, size = int(rng.integers(len(data) + 1)), int(rng.integers(1, 24))
        # Headers matter most: half of all damage falls there.
        at = at if rng.random() < 0.5 else min(at, int(rng.integers(64)))
        action = rng.integers(6)
        if action == 0:
            del data[at:]
        elif action == 1:
            data[at : at + size] = rng.bytes(size)
        elif action == 2:
            data[at:at] = rng.bytes(size)
        elif action == 3 and at < len(data):
            data[at] ^= 1 << int(rng.integers(8))
        elif action == 4:
            data[at : at + 4] = b"\xff" * 4
        else:
            data[at:] = sources[rng.integers(len(sources))][at:]
    return bytes(data)


def run(count: int, *, model: str, nsfw: str = "", faces: str = "", seed: int = 0) -> Counter[str]:
    """Verdicts of ``count`` damaged images; what is kept is embedded and must give a finite unit vector."""
    rng, sources = np.random.default_rng(seed), originals()
    screen = Screen(ScreenRules(max_pixels=MAX_PIXELS, nsfw_model=nsfw, face_model=faces))
    embedder = CopyEmbedder(model, side=128)
    verdicts: Counter[str] = Counter()
    for _ in track(range(count), "damaged images", count):
        data = mutated(sources, rng)
        row, _ = screen.verdict(data)
        assert row["keep"] == (row["reason"] == ""), row
        verdicts[row["reason"]] += 1
        if row["keep"]:
            decoded = decode(data, max_pixels=MAX_PIXELS)
            assert not isinstance(decoded, Refused)
            vector = embedder([decoded.pixels])[0]
            assert abs(float(np.linalg.norm(vector)) - 1) < 1e-4
    return verdicts


if __name__ == "__main__":
    for reason, number in run(int(sys.argv[1]), model="sscd_distilled", nsfw="nsfw", faces="centerface").most_common():
        print(f"{number:6d} {reason or 'kept'}")
