"""What a recipe computes for one image, and what devices can compute: floating-point operations."""

from __future__ import annotations

from dataclasses import dataclass

from dinov2_core.model.feed_forward import swiglu_width
from dinov2_core.model.heads import HeadConfig
from dinov2_core.train.recipe import Recipe

PEAK = {
    "A100": 312e12,
    "H100": 989e12,
    "H200": 989e12,
    "L40S": 362e12,
    "L4": 121e12,
    "RTX 4090": 165e12,
    "V100": 125e12,
}
"""Dense 16-bit FLOP/s by the makers' data sheets, by a part of the device's name."""


def peak(device_name: str) -> float | None:
    """The rate of the device called ``device_name``; None where it is not known."""
    return next((rate for part, rate in PEAK.items() if part in device_name), None)


@dataclass(frozen=True)
class Cost:
    """Of one image: FLOP as executed (what stochastic depth drops is not), nominal (it is), and tokens."""

    executed: float
    nominal: float
    student_tokens: int
    teacher_tokens: int


def of(recipe: Recipe) -> Cost:
    """Cost of one image: the student's forward three times (a backward is two), the teacher's once, heads included.

    A product of ``m × k`` by ``k × n`` counts ``2 m k n``. Recomputed activations do not count.
    """
    model, crops = recipe.model, recipe.crops
    first = 1 + model.registers
    large = first + (crops.global_size // model.patch) ** 2
    small = first + (crops.local_size // model.patch) ** 2
    masked = recipe.masks.probability * sum(recipe.masks.ratio) / 2 * 2 * (large - first)
    teacher = 2 * _forward(recipe, large) + _heads(recipe, 2, masked)
    blocks = 2 * _forward(recipe, large) + crops.locals * _forward(recipe, small)
    heads = _heads(recipe, 2 + crops.locals, masked)
    return Cost(
        executed=teacher + 3 * (blocks * (1 - recipe.drop_path) + heads),
        nominal=teacher + 3 * (blocks + heads),
        student_tokens=2 * large + crops.locals * small,
        teacher_tokens=2 * large,
    )


def _forward(recipe: Recipe, tokens: int) -> float:
    """One sequence through the backbone's blocks."""
    model = recipe.model
    hidden = int(model.dim * model.ffn_ratio)
    feed = 3 * swiglu_width(hidden) if model.ffn == "swiglu" else 2 * hidden
    linear = 2.0 * tokens * model.dim * (4 * model.dim + feed)
    attention = 4.0 * tokens * tokens * model.dim
    return model.depth * (linear + attention)


def _heads(recipe: Recipe, images: int, patches: float) -> float:
    return images * _head(recipe.model.dim, recipe.dino_head) + patches * _head(
        recipe.model.dim, recipe.ibot_head or recipe.dino_head
    )


def _head(dim: int, head: HeadConfig) -> float:
    products = dim * head.hidden + head.hidden**2 + head.hidden * head.bottleneck + head.bottleneck * head.prototypes
    return 2.0 * products
