"""Images in, embeddings out: an exported model folder as one callable. Needs nothing of the pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from dinov2_core.errors import UserError
from dinov2_core.evaluate.features import extract
from dinov2_core.images.decode import Refused, decode
from dinov2_core.model import weights
from dinov2_core.model.preprocessing import Preprocessing
from dinov2_core.model.vision_transformer import VisionTransformer

FILE = "model.safetensors"
Image = bytes | str | Path | NDArray[np.uint8]
"""An encoded image, the path of one, or pixels ``[H, W, 3]`` uint8 RGB."""


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

    def __call__(self, images: Sequence[Image], *, batch: int = 128) -> NDArray[np.float32]:
        """Embed ``images``; raises a UserError that names the first one that cannot be decoded."""
        if not len(images):
            return np.empty((0, self.dim), np.float32)
        size = self.preprocessing.size
        pool = np.empty((len(images), 3, size, size), np.uint8)
        for index, image in enumerate(images):
            pool[index] = self.preprocessing.square(_pixels(image, index))
        features = extract(self.backbone, torch.from_numpy(pool), self.preprocessing, batch=batch)
        return torch.nn.functional.normalize(features, dim=1).numpy()


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
