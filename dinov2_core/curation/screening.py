"""The verdict on one image: decoding, known bad images, quality, NSFW, faces and their blur, cheap checks first.

How each score is computed is in the modules beside; storing the verdicts belongs to whoever asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from dinov2_core.curation import blur, quality
from dinov2_core.curation.faces import FaceDetector
from dinov2_core.curation.folders.description import pixel_hash
from dinov2_core.curation.keep_rule import keep_order
from dinov2_core.curation.known_bad import DISTANCE, HashLists
from dinov2_core.curation.nsfw import NsfwClassifier
from dinov2_core.curation.pca_hash import hamming_pairs, pca_hash
from dinov2_core.curation.quality import QualityRules
from dinov2_core.images.decode import MAX_PIXELS, Refused, decode


@dataclass(frozen=True)
class ScreenRules:
    """``nsfw_model`` and ``face_model`` are files or part names; empty turns that check off.

    ``hash_lists``: files of known bad images, see ``known_bad``; ``pdq_distance``: bits of 256. ``hash_distance``: bits
    (of 64) of the PCA hash within which two images are near-exact duplicates; -1 turns that off.
    """

    quality: QualityRules = field(default_factory=QualityRules)
    max_pixels: int = MAX_PIXELS
    hash_lists: tuple[str, ...] = ()
    pdq_distance: int = DISTANCE
    hash_distance: int = 3
    nsfw_model: str = "nsfw"
    nsfw_threshold: float = 0.9
    nsfw_tile: int = 256
    face_model: str = "centerface"
    face_threshold: float = 0.5
    face_max_side: int = 1280


@dataclass(frozen=True)
class Blurred:
    """A kept image's new bytes, and the ending of their format."""

    data: bytes
    extension: str


class Screen:
    """The checks of one process: models are loaded once."""

    def __init__(self, rules: ScreenRules) -> None:
        self.rules = rules
        self.bad = HashLists.read(rules.hash_lists, distance=rules.pdq_distance)
        self.nsfw = NsfwClassifier(rules.nsfw_model, tile=rules.nsfw_tile) if rules.nsfw_model else None
        self.faces = (
            FaceDetector(rules.face_model, threshold=rules.face_threshold, max_side=rules.face_max_side)
            if rules.face_model
            else None
        )

    def verdict(self, data: bytes) -> tuple[dict[str, Any], Blurred | None]:
        """The columns of a verdict (``keep``, ``reason`` and every score on the way), and new bytes for faces."""
        rules = self.rules
        row: dict[str, Any] = {"keep": False}
        decoded = decode(data, max_pixels=rules.max_pixels)
        if isinstance(decoded, Refused):
            return row | {"reason": decoded.reason}, None
        pixels = decoded.pixels
        height, width = pixels.shape[:2]
        luma = quality.grey(pixels)
        row.update(width=width, height=height, mode=decoded.mode, pixel_sha256=pixel_hash(pixels))
        row.update(entropy=quality.entropy(luma), sharpness=quality.sharpness(luma), pca_hash=pca_hash(luma))
        row["reason"] = "known bad image" if self.bad.match(data, pixels) else ""
        row["reason"] = (
            row["reason"]
            or quality.size_reason(width, height, rules.quality)
            or quality.detail_reason(row["entropy"], row["sharpness"], rules.quality)
        )
        if row["reason"]:
            return row, None
        if self.nsfw is not None:
            row["nsfw"] = self.nsfw.score(pixels)
            if row["nsfw"] >= rules.nsfw_threshold:
                row["reason"] = "unsafe"
                return row, None
        row["keep"] = True
        found = self.faces.find(pixels) if self.faces is not None else []
        row["faces"] = [asdict(face) for face in found]
        return row, Blurred(*blur.encode(blur.blur_faces(pixels, found), decoded.format)) if found else None


def mark_duplicates(rows: Sequence[dict[str, Any]], distance: int, *, length: str, name: str) -> None:
    """Drop every kept row that is within ``distance`` bits of a better one that stays.

    ``length`` and ``name`` are the columns of the stored bytes and of what names an image.
    """
    kept = [row for row in rows if row["keep"]]
    if distance < 0 or not kept:
        return
    pairs = hamming_pairs(np.frombuffer(b"".join(r["pca_hash"] for r in kept), np.uint8).reshape(-1, 8), distance)
    near: dict[int, list[int]] = {}
    for i, j in pairs.tolist():
        near.setdefault(i, []).append(j)
        near.setdefault(j, []).append(i)
    order = keep_order(
        np.array([row["width"] * row["height"] for row in kept]),
        np.array([row[length] for row in kept]),
        np.array([row[name] for row in kept]),
    )
    # Best first: whoever is still there when its turn comes stays, and its neighbours go. No chains.
    for index in order.tolist():
        if kept[index]["keep"]:
            for other in near.get(index, ()):
                if kept[other]["keep"]:
                    kept[other].update(keep=False, reason="duplicate", duplicate_of=kept[index][name])
