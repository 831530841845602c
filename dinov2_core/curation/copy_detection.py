"""Copy-detection embeddings by SSCD (Pizzi et al., 2022, arXiv 2202.10261): copies of an image lie close together.

Two file formats: ONNX that takes uint8 N×H×W×3, and the TorchScript files of the method's authors. Searching and
thresholds are in ``neighbours`` and ``calibration``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from dinov2_core.curation import onnx_model, vectors
from dinov2_core.errors import UserError

DIM = 512
SIDE = 288
"""Pixels, as the authors recommend."""
_SMALLEST, _STEP, _ENLARGE = 128, 32, 4
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class CopyEmbedder:
    """Callable on uint8 H×W×3 arrays of any sizes → float32 [N, 512] of unit length.

    ``side``: pictures are squeezed to squares of at most this side, see :func:`square_side`. Smaller sides are faster
    and, for tiny pictures, better: unrelated 32-pixel pictures look alike once they are enlarged to 288.
    """

    def __init__(self, model: str = "sscd", *, side: int = SIDE, batch: int = 16) -> None:
        self.path = str(onnx_model.locate(model))
        self.side, self.batch, self.dim = side, batch, DIM
        self._script = None if self.path.endswith(".onnx") else _load_script(self.path)
        if self._script is None:
            _check(self.path)

    def __call__(self, images: Sequence[np.ndarray]) -> np.ndarray:
        found = np.zeros((len(images), DIM), np.float32)
        sides = np.array(
            [square_side(pixels.shape[0], pixels.shape[1], self.side) for pixels in images], dtype=np.int64
        )
        for side in np.unique(sides):
            chosen = np.flatnonzero(sides == side)
            for start in range(0, len(chosen), self.batch):
                some = chosen[start : start + self.batch]
                found[some] = self._embed(np.stack([_squeeze(images[i], int(side)) for i in some]))
        return vectors.unit(found)

    def _embed(self, batch: np.ndarray) -> np.ndarray:
        """uint8 [N, S, S, 3] → float [N, 512]."""
        if self._script is None:
            return onnx_model.run(onnx_model.session(self.path), batch)[0]
        import torch

        pixels = torch.from_numpy(batch).permute(0, 3, 1, 2).float() / 255
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (_MEAN, _STD))
        with torch.inference_mode():
            return np.asarray(self._script((pixels - mean) / std).numpy())


def square_side(height: int, width: int, side: int) -> int:
    """The side at which a picture is embedded: enlarged at most four times, but never under 128 pixels."""
    enlarged = _ENLARGE * max(height, width)
    return min(side, max(_SMALLEST, -(-enlarged // _STEP) * _STEP))


def _squeeze(pixels: np.ndarray, side: int) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC))


def _check(path: str) -> None:
    """Raise :class:`UserError` unless the ONNX file takes bytes of pictures and gives vectors of ``DIM``."""
    session = onnx_model.session(path)
    takes, gives = session.get_inputs()[0], session.get_outputs()[0]
    if takes.type != "tensor(uint8)" or gives.shape[-1] != DIM:
        raise UserError(
            f"no copy-detection network: it takes {takes.type} and gives {gives.shape}",
            where=path,
            todo=f"give one that takes uint8 N×H×W×3 and gives N×{DIM}, or a TorchScript file",
        )


def _load_script(path: str):  # type: ignore[no-untyped-def]
    import torch

    try:
        return torch.jit.load(path, map_location="cpu").eval()
    except (RuntimeError, ValueError, OSError) as error:
        raise UserError(
            "no TorchScript file", where=path, todo="give SSCD as TorchScript or ONNX, or sscd or sscd_distilled"
        ) from error
