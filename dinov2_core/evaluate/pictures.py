"""Pictures of what a model sees: patch features as colours, attention maps, overlays, rows of neighbours.

Arrays in, arrays out; pages and files belong to ``look_page.py`` and the report, curves and tables to ``charts.py``
beside this file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from dinov2_core.model.vision_transformer import VisionTransformer

Rgb = NDArray[np.uint8]
"""``[H, W, 3]``."""

_RAMP = np.array([(48, 18, 59), (70, 107, 227), (40, 188, 235), (164, 252, 60), (251, 128, 34), (122, 4, 3)], float)
"""From near to far, or little to much: dark blue, blue, cyan, green, orange, dark red."""


def pca_colours(maps: NDArray[np.float32], *, foreground: bool = False) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """The three main directions of all patches as red, green and blue (paper, figure 1).

    Args:
        maps: ``[B, h, w, D]``: directions are common to the pictures, so equal colours mean equal parts.
        foreground: tell subject and ground apart by the sign of the first component, then colour the subject by
            components of its own. The subject is the side that touches the border less.

    Returns:
        ``[B, h, w, 3]`` uint8, and ``[B, h, w]`` bool: what is coloured (black elsewhere).
    """
    shape = maps.shape[:3]
    flat = maps.reshape(-1, maps.shape[-1]).astype(np.float64)
    kept = np.ones(len(flat), bool)
    if foreground:
        first = _components(flat, 1)[:, 0].reshape(shape)
        border = np.zeros(shape, bool)
        border[:, [0, -1]] = border[:, :, [0, -1]] = True
        side = first > 0
        kept = (side if side[border].mean() < 0.5 else ~side).ravel()
        if kept.sum() < 4:
            kept[:] = True
    scores = _components(flat[kept], 3)
    low, high = np.quantile(scores, [0.02, 0.98], axis=0)
    colours = np.zeros((len(flat), 3), np.uint8)
    colours[kept] = (255 * ((scores - low) / np.maximum(high - low, 1e-12)).clip(0, 1)).round()
    return colours.reshape(*shape, 3), kept.reshape(shape)


def _components(values: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Scores on the main directions ``[N, count]``; the largest weight of a direction is positive."""
    centred = values - values.mean(axis=0)
    _, _, directions = np.linalg.svd(centred.T @ centred)
    chosen = directions[:count]
    chosen = chosen * np.sign(chosen[np.arange(len(chosen)), np.abs(chosen).argmax(axis=1)])[:, None]
    scores = centred @ chosen.T
    return np.pad(scores, ((0, 0), (0, count - scores.shape[1])))


@torch.inference_mode()
def attention_maps(backbone: VisionTransformer, images: Tensor, *, block: int = -1) -> Tensor:
    """What each head's class token attends to in a block.

    Args:
        images: ``[B, 3, H, W]``, normalised.

    Returns:
        ``[B, heads, h, w]`` float32: shares of attention on patches. The rest of 1 is on class and register tokens.
    """
    patch, first, heads = backbone.config.patch, 1 + backbone.config.registers, backbone.config.heads
    rows, columns = images.shape[-2] // patch, images.shape[-1] // patch
    tokens = first + rows * columns
    with _outputs(backbone.get_submodule(f"blocks.{block % backbone.config.depth}.attn.qkv")) as kept:
        backbone(images)
    qkv = kept[0].float().view(len(images), tokens, 3, heads, -1)
    query, keys = qkv[:, :1, 0], qkv[:, :, 1]
    weights = torch.einsum("bqhd,bkhd->bhqk", query, keys) / query.shape[-1] ** 0.5
    return weights.softmax(dim=-1)[:, :, 0, first:].view(len(images), heads, rows, columns).cpu()


@contextmanager
def _outputs(module: nn.Module) -> Iterator[list[Tensor]]:
    kept: list[Tensor] = []
    handle = module.register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    try:
        yield kept
    finally:
        handle.remove()


def ramp(values: NDArray, *, low: float | None = None, high: float | None = None) -> Rgb:
    """Numbers ``[H, W]`` as colours, from ``low`` (their smallest) to ``high`` (their largest)."""
    low = float(np.nanmin(values)) if low is None else low
    high = float(np.nanmax(values)) if high is None else high
    place = (np.nan_to_num(np.asarray(values, float), nan=low) - low) / (high - low or 1.0)
    at = place.clip(0, 1) * (len(_RAMP) - 1)
    below = np.floor(at).astype(int).clip(0, len(_RAMP) - 2)
    share = (at - below)[..., None]
    return ((1 - share) * _RAMP[below] + share * _RAMP[below + 1]).round().astype(np.uint8)


def class_colours(count: int) -> NDArray[np.uint8]:
    """``[count, 3]`` colours that are told apart: hues by the golden angle, lightness in three steps."""
    found = []
    for n in range(count):
        hue, value = (n * 0.618034) % 1.0, (0.95, 0.7, 0.5)[n % 3]
        found.append(np.asarray(Image.new("HSV", (1, 1), (int(255 * hue), 190, int(255 * value))).convert("RGB"))[0, 0])
    return np.array(found, np.uint8).reshape(count, 3)


def overlay(pixels: Rgb, colours: Rgb, *, share: float = 0.55, mask: NDArray[np.bool_] | None = None) -> Rgb:
    """``colours`` (resized to the picture) laid over it; where ``mask`` is False the picture stays."""
    height, width = pixels.shape[:2]
    large = np.asarray(Image.fromarray(colours).resize((width, height), Image.Resampling.NEAREST), float)
    mixed = (1 - share) * pixels + share * large
    if mask is not None:
        chosen = np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))
        mixed = np.where(chosen[..., None], mixed, pixels)
    return mixed.round().astype(np.uint8)


def segmentation_overlay(pixels: Rgb, classes: NDArray[np.uint8], count: int) -> Rgb:
    """Classes ``[H, W]`` as colours over the picture; 255 shows the picture."""
    colours = np.concatenate([class_colours(count), np.zeros((256 - count, 3), np.uint8)])
    return overlay(pixels, colours[classes], mask=classes != 255)


def enlarge(pixels: Rgb, side: int, *, smooth: bool = False) -> Rgb:
    """The longer side to ``side``; patches stay squares unless ``smooth``."""
    height, width = pixels.shape[:2]
    factor = side / max(height, width)
    how = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    shape = (max(round(width * factor), 1), max(round(height * factor), 1))
    return np.asarray(Image.fromarray(pixels).resize(shape, how))


def row(pictures: Sequence[Rgb], *, side: int = 128, gap: int = 6) -> Rgb:
    """Pictures beside each other on white, each inside a square of ``side``."""
    sheet = np.full((side, len(pictures) * (side + gap) - gap, 3), 255, np.uint8)
    for n, pixels in enumerate(pictures):
        small = enlarge(pixels, side, smooth=True)
        top, left = (side - small.shape[0]) // 2, n * (side + gap) + (side - small.shape[1]) // 2
        sheet[top : top + small.shape[0], left : left + small.shape[1]] = small
    return sheet


def stack(rows: Sequence[Rgb], *, gap: int = 6) -> Rgb:
    """Rows above each other on white, beginning at the left."""
    sheet = np.full((sum(len(r) + gap for r in rows) - gap, max(r.shape[1] for r in rows), 3), 255, np.uint8)
    top = 0
    for one in rows:
        sheet[top : top + len(one), : one.shape[1]] = one
        top += len(one) + gap
    return sheet


def framed(pixels: Rgb, colour: tuple[int, int, int], *, share: float = 0.06) -> Rgb:
    """The picture inside a frame of its own size, ``share`` of the longer side wide."""
    made, width = pixels.copy(), max(1, round(share * max(pixels.shape[:2])))
    for edge in (made[:width], made[-width:], made[:, :width], made[:, -width:]):
        edge[:] = colour
    return made


def neighbour_rows(pictures: Sequence[Rgb], features: Tensor, *, count: int = 5, side: int = 128) -> list[Rgb]:
    """A row a picture: itself, then the ``count`` others with the largest cosine. ``features``: ``[N, D]``."""
    unit = nn.functional.normalize(features.float(), dim=1)
    similarity = unit @ unit.T
    similarity.fill_diagonal_(float("-inf"))
    nearest: list[list[int]] = [[] for _ in pictures]
    if len(pictures) > 1:
        nearest = similarity.topk(min(count, len(pictures) - 1), dim=1).indices.tolist()
    return [row([pictures[n], *(pictures[i] for i in nearest[n])], side=side) for n in range(len(pictures))]
