"""What a training run is: one frozen configuration, in sections by meaning. Named values are in ``recipes.py``."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from dinov2_core import config
from dinov2_core.errors import ConfigError, nearest
from dinov2_core.model.heads import HeadConfig
from dinov2_core.model.vision_transformer import VitConfig


@dataclass(frozen=True)
class LossConfig:
    """Weights and targets. The paper's KoLeo is on the first global crop only, the code's on both."""

    dino: float = 1.0
    ibot: float = 1.0
    koleo: float = 0.1
    koleo_crops: Literal["both", "first"] = "both"
    koleo_group: int = 0
    """KoLeo looks for neighbours among this many images that follow each other in the global batch; 0, or more than it
    has, is all of it. The public code looks among those of one GPU, whatever their number"""
    targets: Literal["sinkhorn", "centering"] = "sinkhorn"
    student_temperature: float = 0.1
    center_momentum: float = 0.9


@dataclass(frozen=True)
class TeacherConfig:
    """The teacher's averaging (cosine from ``momentum`` to ``final_momentum``) and its temperature (linear warm-up)."""

    momentum: float = 0.992
    final_momentum: float = 1.0
    first_temperature: float = 0.04
    temperature: float = 0.07
    temperature_warmup: int = 37_500


@dataclass(frozen=True)
class OptimConfig:
    """AdamW. ``base_lr`` is at batch 1024 and scales with the square root of the batch; durations are in steps."""

    base_lr: float = 4e-3
    min_lr: float = 1e-6
    warmup: int = 12_500
    weight_decay: float = 0.04
    final_weight_decay: float = 0.4
    layer_decay: float = 1.0
    patch_embed_lr: float = 0.2
    freeze_last_layer: int = 1_250
    clip: float = 3.0
    beta1: float = 0.9
    beta2: float = 0.999


BLUR = {"as_released": (0.0, 0.9, 0.5), "as_intended": (1.0, 0.1, 0.5)}
"""Blur probabilities of (crop 1, crop 2, local crops) by name."""


@dataclass(frozen=True)
class CropConfig:
    """Two global crops and some local ones, with their augmentation. Sizes in pixels, scales as parts of the area.

    ``blur``: the probabilities for (crop 1, crop 2, local crops) that really apply, or one of two names. The released
    code states (1, 0.1, 0.5), ``as_intended``, but inverts them, so what trained the released models is (0, 0.9, 0.5),
    ``as_released``. ``squash``: 0 cuts every crop from the decoded image, on CPU workers; a side in pixels has whole
    images squashed to that square, and whole batches cropped from them on the training device.
    """

    global_size: int = 224
    local_size: int = 96
    locals: int = 8
    global_scale: tuple[float, float] = (0.32, 1.0)
    local_scale: tuple[float, float] = (0.05, 0.32)
    flip: float = 0.5
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1)
    jitter_probability: float = 0.8
    gray: float = 0.2
    blur: Literal["as_released", "as_intended"] | tuple[float, float, float] = "as_released"
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    solarize: float = 0.2
    squash: int = 0
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    @property
    def blur_probabilities(self) -> tuple[float, float, float]:
        """``blur`` as numbers."""
        return BLUR[self.blur] if isinstance(self.blur, str) else self.blur


@dataclass(frozen=True)
class MaskConfig:
    """Which patches of the global crops are masked: ``probability`` of the crops, each by a ratio in ``ratio``."""

    probability: float = 0.5
    ratio: tuple[float, float] = (0.1, 0.5)


@dataclass(frozen=True)
class Recipe:
    """One training run. ``ibot_head`` None ties the patch head to the image head."""

    model: VitConfig
    steps: int
    batch: int
    dino_head: HeadConfig = field(default_factory=HeadConfig)
    ibot_head: HeadConfig | None = None
    drop_path: float = 0.0
    loss: LossConfig = LossConfig()
    teacher: TeacherConfig = TeacherConfig()
    optim: OptimConfig = OptimConfig()
    crops: CropConfig = CropConfig()
    masks: MaskConfig = MaskConfig()
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, size in (("global", self.crops.global_size), ("local", self.crops.local_size)):
            if size % self.model.patch:
                raise ValueError(f"crops.{name}_size {size} is not a multiple of model.patch {self.model.patch}")
        if self.batch < 2:
            raise ValueError("batch must be at least 2: KoLeo looks for a nearest neighbour in it")
        group = self.loss.koleo_group
        if group and (group < 2 or (group < self.batch and self.batch % group)):
            raise ValueError(f"loss.koleo_group {group} must be 0, or at least 2 and divide the batch of {self.batch}")
        if self.steps < 1:
            raise ValueError("steps must be at least 1")

    @property
    def lr(self) -> float:
        """The peak learning rate: ``base_lr · sqrt(batch / 1024)``."""
        return self.optim.base_lr * math.sqrt(self.batch / 1024)


@dataclass(frozen=True)
class EfficiencyConfig:
    """How a recipe is computed, never what: results agree up to rounding, and checkpoints do not compare it."""

    accumulate: int = 1
    """parts that each process splits its share of the batch into, to need less memory"""
    checkpoint_activations: bool = False
    """compute each block's activations again in the backward pass instead of keeping them"""
    compile: bool = False
    """compile each block"""
    attention: str = "auto"
    """a name of ``model.attention_backends``"""
    reduce: Literal["low", "float32"] = "low"
    """what the backbone's gradients are averaged over processes in: the products' dtype, or float32 as the heads'"""

    def __post_init__(self) -> None:
        if self.accumulate < 1:
            raise ValueError("accumulate must be at least 1")


def override(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """``recipe`` with dotted settings replaced, e.g. ``{"optim.base_lr": 1e-3, "steps": 200}``.

    Raises:
        ConfigError: unknown setting (with the nearest valid one) or a value of the wrong form.
    """
    known = settings(recipe)
    plain = config.to_plain(recipe)
    for key, value in changes.items():
        if key not in known:
            raise ConfigError(f"unknown setting '{key}'{nearest(key, known)}", where="recipe")
        *parents, last = key.split(".")
        section = plain
        for parent in parents:
            if section[parent] is None:
                section[parent] = {}
            section = section[parent]
        section[last] = value
    return config.build(Recipe, plain, where="recipe")


def settings(recipe: Recipe) -> list[str]:
    """The dotted names of all settings of a recipe."""
    return _names(type(recipe), "")


def _names(kind: type, prefix: str) -> list[str]:
    names: list[str] = []
    hints = typing.get_type_hints(kind)
    for one in dataclasses.fields(kind):
        names.append(prefix + one.name)
        for option in (hints[one.name], *typing.get_args(hints[one.name])):
            if dataclasses.is_dataclass(option) and isinstance(option, type):
                names += _names(option, f"{prefix}{one.name}.")
    return names
