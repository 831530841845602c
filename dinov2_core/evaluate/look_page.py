"""Anybody's pictures as a model sees them: one HTML page with PNG files beside it, no script, no request.

The pictures themselves are made in ``pictures.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from dinov2_core.errors import UserError
from dinov2_core.evaluate import pictures
from dinov2_core.evaluate.datasets.layout import pictures as picture_files
from dinov2_core.evaluate.datasets.layout import rgb
from dinov2_core.evaluate.segmentation import patch_multiple
from dinov2_core.model.preprocessing import Preprocessing, square
from dinov2_core.model.vision_transformer import VisionTransformer
from dinov2_core.progress import track

_STYLE = """body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:1100px;padding:0 1rem;color:#111;
background:#fff}figure{display:inline-block;margin:0 .8rem .8rem 0}img{display:block;image-rendering:pixelated;
max-width:100%;border-radius:4px}figcaption{font-size:13px;color:#555}h2{font-size:1.05rem;margin:1.6rem 0 .5rem;
overflow-wrap:anywhere}@media(prefers-color-scheme:dark){body{color:#eee;background:#161616}figcaption{color:#aaa}}"""


@dataclass(frozen=True)
class LookSettings:
    """``size``: input side in pixels, 0 = 32 patches (at least the model's own); ``neighbours`` a row."""

    size: int = 0
    neighbours: int = 5
    shown: int = 256


def find(images: Sequence[Path]) -> list[Path]:
    """Picture files: those named, and those inside folders named. UserError where there is none."""
    found = [file for path in images for file in (picture_files(path, deep=True) if path.is_dir() else [path])]
    if not found:
        raise UserError("no pictures", where=", ".join(map(str, images)), todo="name picture files or folders")
    return found


@torch.inference_mode()
def write(
    backbone: VisionTransformer,
    preprocessing: Preprocessing,
    paths: Sequence[Path],
    out: Path,
    settings: LookSettings = LookSettings(),
) -> Path:
    """Make ``out/index.html`` and its PNG files.

    Returns:
        The page.

    Raises:
        UserError: a picture cannot be read.
    """
    patch = backbone.config.patch
    size = patch_multiple(settings.size or max(32 * patch, preprocessing.size), patch)
    out.mkdir(parents=True, exist_ok=True)
    shown, maps, heads, tokens = [], [], [], []
    for path in track(paths, "pictures"):
        pixels = square(rgb(path), size)
        image = preprocessing.normalize(torch.from_numpy(pixels)[None])
        features = backbone(image)
        side = size // patch
        maps.append(features.patches[0].float().numpy().reshape(side, side, -1))
        heads.append(pictures.attention_maps(backbone, image)[0].numpy())
        tokens.append(features.cls[0].float())
        shown.append(pictures.enlarge(np.ascontiguousarray(pixels.transpose(1, 2, 0)), settings.shown, smooth=True))
    plain, _ = pictures.pca_colours(np.stack(maps))
    subject, _ = pictures.pca_colours(np.stack(maps), foreground=True)
    rows = pictures.neighbour_rows(shown, torch.stack(tokens), count=settings.neighbours)
    sections = []
    for n, path in enumerate(paths):
        files = {
            "picture": shown[n],
            "patch features": pictures.enlarge(plain[n], settings.shown),
            "patch features, subject only": pictures.enlarge(subject[n], settings.shown),
            "attention, mean of heads": pictures.enlarge(pictures.ramp(heads[n].mean(axis=0)), settings.shown),
            "attention, each head": pictures.row([pictures.ramp(head) for head in heads[n]], side=96),
            "nearest of these pictures": rows[n],
        }
        if len(paths) == 1:
            del files["nearest of these pictures"]
        sections.append(_section(path.name, files, out, n))
    about = f"{len(paths)} pictures at {size} × {size} pixels, {size // patch}² patches of {patch}."
    colours = "Colours are the three main directions of all patches of all pictures: equal colours, alike parts."
    page = out / "index.html"
    text = f"<p>{about} {colours} Attention is the class token's in the last block.</p>"
    page.write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>What the model sees</title><style>{_STYLE}</style><h1>What the model sees</h1>{text}"
        f"{''.join(sections)}</html>\n"
    )
    return page


def _section(name: str, files: dict[str, NDArray[np.uint8]], out: Path, number: int) -> str:
    figures = []
    for label, pixels in files.items():
        file = f"{number:03d}-{label.replace(',', '').replace(' ', '-')}.png"
        Image.fromarray(pixels).save(out / file)
        size = f'width="{pixels.shape[1]}" height="{pixels.shape[0]}"'
        figures.append(
            f'<figure><img src="{file}" {size} loading="lazy" alt="{escape(label)} of {escape(name)}">'
            f"<figcaption>{escape(label)}</figcaption></figure>"
        )
    return f"<h2>{escape(name)}</h2>{''.join(figures)}"
