"""The model under evaluation: a backbone, its preprocessing, and a name that changes with any weight.

Loading weights is ``model/weights.py``; what the features are used for belongs to the protocols.
"""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dinov2_core import config
from dinov2_core.errors import UserError
from dinov2_core.model import weights
from dinov2_core.model.preprocessing import Preprocessing, square
from dinov2_core.model.vision_transformer import VisionTransformer

CROP_RATIO = 0.875
"""224 of 256 pixels: the shorter side is resized to the larger, the centre kept (public reference, k-NN and linear)."""
_SMALL = 128
"""Below this side the margin that a crop removes is part of the object, and the whole square is kept."""


@dataclass(frozen=True)
class EvalModel:
    """``digest`` is the sha256 of shape and weights, what features are cached under."""

    name: str
    backbone: VisionTransformer
    preprocessing: Preprocessing
    digest: str

    @classmethod
    def of(cls, backbone: VisionTransformer, preprocessing: Preprocessing, *, name: str = "model") -> EvalModel:
        """A model in memory, put into evaluation mode."""
        total = hashlib.sha256(config.canonical_json(config.to_plain(backbone.config)).encode())
        for key, tensor in sorted(backbone.state_dict().items()):
            total.update(key.encode())
            total.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
        return cls(name, backbone.eval(), preprocessing, total.hexdigest())

    @classmethod
    def load(cls, spec: str | Path, *, size: int | None = None, heads: int | None = None) -> EvalModel:
        """What ``spec`` names: a file or folder that ``weights.load`` takes, ``timm:NAME`` or ``hf:OWNER/NAME``.

        Names are looked up by the installed ``timm`` or ``huggingface_hub``, whose caches and offline switch apply.

        Args:
            size: input side in pixels instead of the model's own.
            heads: attention heads, for files that state none.

        Raises:
            UserError: nothing there, not loadable, or ``size`` is no multiple of the patch size.
        """
        text = str(spec)
        if text.startswith("timm:"):
            backbone, preprocessing = _from_timm(text.removeprefix("timm:"))
        elif text.startswith("hf:"):
            backbone, preprocessing = weights.load(_from_hub(text.removeprefix("hf:")))
        elif not Path(spec).exists():
            todo = "give a file, a Hugging Face folder, timm:NAME or hf:OWNER/NAME"
            raise UserError("no such weights", where=text, todo=todo)
        else:
            backbone, preprocessing = weights.load(spec, heads=heads)
        if size is not None:
            preprocessing = Preprocessing(size, preprocessing.mean, preprocessing.std)
        patch = backbone.config.patch
        if preprocessing.size % patch:
            near = max(round(preprocessing.size / patch), 1) * patch
            raise UserError(
                f"{preprocessing.size} pixels are not a multiple of the patch size {patch}",
                where=text,
                todo=f"use {near}",
            )
        return cls.of(backbone, preprocessing, name=Path(text).name)

    def with_size(self, size: int) -> EvalModel:
        """The same weights at another input side."""
        return EvalModel(
            self.name, self.backbone, Preprocessing(size, self.preprocessing.mean, self.preprocessing.std), self.digest
        )

    @property
    def resize(self) -> int:
        """The side to which an image is resized before its centre is cut out."""
        size = self.preprocessing.size
        return size if size < _SMALL else round(size / CROP_RATIO)

    def square(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """``[H, W, 3]`` uint8 RGB → ``[3, S, S]`` uint8."""
        size, margin = self.preprocessing.size, (self.resize - self.preprocessing.size) // 2
        return np.ascontiguousarray(square(pixels, self.resize)[:, margin : margin + size, margin : margin + size])

    @torch.inference_mode()
    def probe_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Class tokens of the last four blocks (fewer where there are fewer), and the last block's mean patch.

        Args:
            images: ``[B, 3, S, S]`` uint8.

        Returns:
            ``[B, L, D]``, the last block last, and ``[B, D]``; float32 on the CPU, after the backbone's last norm.
        """
        device = next(self.backbone.parameters()).device
        inputs = self.preprocessing.normalize(images).to(device)
        layers = self.backbone.last_layers(inputs, min(4, self.backbone.config.depth))
        cls = torch.stack([layer.cls for layer in layers], dim=1)
        return cls.float().cpu(), layers[-1].patches.mean(dim=1).float().cpu()


def _from_hub(name: str) -> Path:
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors"]))
    except Exception as error:
        todo = "install huggingface_hub, check the name, or give a folder"
        raise UserError(f"cannot be fetched ({type(error).__name__})", where=f"hf:{name}", todo=todo) from error


def _from_timm(name: str) -> tuple[VisionTransformer, Preprocessing]:
    import safetensors.torch

    try:
        import timm

        tensors = timm.create_model(name, pretrained=True).state_dict()
    except Exception as error:
        todo = "install timm, check the name, or give a file"
        raise UserError(f"cannot be fetched ({type(error).__name__})", where=f"timm:{name}", todo=todo) from error
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        safetensors.torch.save_file({k: v.contiguous() for k, v in tensors.items()}, path)
        return weights.load(path)
