"""Images in, embeddings out: an exported model folder as one callable. Needs nothing of the pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dinov2_core.errors import UserError, nearest
from dinov2_core.images.decode import Refused, decode
from dinov2_core.model import weights
from dinov2_core.model.preprocessing import Preprocessing
from dinov2_core.model.vision_transformer import VisionTransformer

FILE = "model.safetensors"
Image = bytes | str | Path | NDArray[np.uint8]
"""An encoded image, the path of one, or pixels ``[H, W, 3]`` uint8 RGB."""
Output = Literal["cls", "patch", "pooled"]
"""The class token ``[N, D]``; the patch tokens ``[N, P, D]``, row by row; or the mean of these ``[N, D]``. All after
the last norm."""


class Embedder:
    """The model of a folder. ``embedder(images)`` → float32 ``[N, D]``, L2-normalised class tokens."""

    def __init__(self, backbone: VisionTransformer, preprocessing: Preprocessing) -> None:
        self.backbone, self.preprocessing = backbone.eval(), preprocessing

    @classmethod
    def load(cls, folder: str | Path) -> Embedder:
        """The model exported to ``folder``.

        Raises:
            UserError: no readable model there.
        """
        return cls(*weights.load(Path(folder) / FILE))

    @property
    def dim(self) -> int:
        return self.backbone.config.dim

    def __call__(
        self, images: Sequence[Image], *, output: Output = "cls", normalise: bool = True, batch: int = 128
    ) -> NDArray[np.float32]:
        """Embed ``images``.

        Args:
            output: see :data:`Output`.
            normalise: scale each vector to length 1 (each patch's own for ``patch``).
            batch: images a forward pass; changes speed, not vectors (up to rounding).

        Raises:
            UserError: no such output, or an image cannot be decoded; the message names the first one.
        """
        if output not in get_args(Output):
            todo = f"one of {', '.join(get_args(Output))}"
            raise UserError(f"there is no output '{output}'{nearest(str(output), get_args(Output))}", todo=todo)
        parts = [self._embed(images[at : at + batch], at, output) for at in range(0, len(images), batch)]
        if not parts:
            size = self.preprocessing.size
            parts = [self._forward(torch.zeros(1, 3, size, size, dtype=torch.uint8), output)[:0]]
        features = torch.cat(parts)
        return (torch.nn.functional.normalize(features, dim=-1) if normalise else features).numpy()

    def _embed(self, images: Sequence[Image], first: int, output: Output) -> Tensor:
        size = self.preprocessing.size
        pool = np.empty((len(images), 3, size, size), np.uint8)
        for index, image in enumerate(images):
            pool[index] = self.preprocessing.square(_pixels(image, first + index))
        return self._forward(torch.from_numpy(pool), output)

    @torch.inference_mode()
    def _forward(self, pixels: Tensor, output: Output) -> Tensor:
        device = next(self.backbone.parameters()).device
        features = self.backbone(self.preprocessing.normalize(pixels).to(device))
        found = features.cls if output == "cls" else features.patches
        return (found.mean(dim=1) if output == "pooled" else found).float().cpu()


def _pixels(image: Image, index: int) -> NDArray[np.uint8]:
    where = str(image) if isinstance(image, (str, Path)) else f"image {index}"
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise UserError(
                f"pixels of shape {image.shape} and type {image.dtype}", where=where, todo="give [H, W, 3] uint8 RGB"
            )
        return image
    try:
        data = image if isinstance(image, bytes) else Path(image).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the image ({error.strerror})", where=where, todo="check the path") from error
    decoded = decode(data)
    if isinstance(decoded, Refused):
        raise UserError(f"not a usable image: {decoded.reason}", where=where, todo="give an image that decodes")
    return decoded.pixels
