"""The named recipes, each a function that returns a frozen configuration; and two that derive one from another."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

from dinov2_core.errors import ConfigError, nearest
from dinov2_core.model import presets
from dinov2_core.model.heads import HeadConfig
from dinov2_core.model.vision_transformer import VitConfig
from dinov2_core.train.recipe import CropConfig, LossConfig, MaskConfig, OptimConfig, Recipe, TeacherConfig

EPOCH = 1_250
"""Steps that the paper's code calls an epoch, whatever the data."""


def vitl16_short() -> Recipe:
    """ViT-L/16 on ImageNet-1k, the code's fast setting (not DINOv2 proper: tied heads, centring, MLP, 65k prototypes).

    Hardware and time as published: 32 A100-80GB, about a day. Score: k-NN 81.6, linear 82.9 on ImageNet-1k.
    """
    return Recipe(
        model=VitConfig(dim=1024, depth=24, heads=16, patch=16, image_size=224, layer_scale=1e-5),
        steps=100 * EPOCH,
        batch=2048,
        drop_path=0.3,
        # 2048 images on 32 GPUs.
        loss=LossConfig(targets="centering", koleo_group=64),
        optim=OptimConfig(base_lr=4e-3, warmup=10 * EPOCH, layer_decay=0.9),
    )


def vitl14() -> Recipe:
    """ViT-L/14 on ImageNet-22k, the paper's setting (table 16).

    Hardware and time as published: 96 A100-80GB, 3.3 days. Score: k-NN 82.0, linear 84.5 on ImageNet-1k.
    """
    # 3072 images on 96 GPUs.
    return _long(VitConfig(dim=1024, depth=24, heads=16, patch=14, image_size=224, ffn="swiglu"), koleo_group=32)


def vitg14() -> Recipe:
    """ViT-g/14 on LVD-142M, the paper's setting (table 16).

    Hardware and time as published: 22,016 A100-40GB hours. Score: k-NN 83.5, linear 86.5 on ImageNet-1k (after the
    stage at 518 pixels).
    """
    # 12 images a GPU in the code's configuration.
    return _long(VitConfig(dim=1536, depth=40, heads=24, patch=14, image_size=224, ffn="swiglu"), koleo_group=12)


def _long(model: VitConfig, koleo_group: int) -> Recipe:
    return Recipe(
        model=model,
        steps=500 * EPOCH,
        batch=3072,
        drop_path=0.4,
        loss=LossConfig(koleo_group=koleo_group),
        dino_head=HeadConfig(prototypes=131_072, bottleneck=384),
        ibot_head=HeadConfig(prototypes=131_072, bottleneck=256),
        teacher=TeacherConfig(momentum=0.994),
        optim=OptimConfig(base_lr=2e-4, warmup=80 * EPOCH, final_weight_decay=0.2),
        crops=CropConfig(local_size=98),
    )


def vits14_one_gpu() -> Recipe:
    """ViT-S/14 from scratch on one GPU, with untied heads and Sinkhorn-Knopp as in the paper's larger runs.

    What differs from ``vitl14`` and why: batch 1024 and 125,000 steps, which is a day and not a month; a teacher whose
    momentum is scaled to that batch (1 - m in proportion, arXiv 2307.13813); 65,536 prototypes, a smaller set's worth;
    drop path 0.1, since a small network underfits.

    Hardware and time: one H100 or H200, about a day (128 million images at 1,500 a second: computed from the recipe's
    arithmetic at 25 % of the card's peak, not run). It needs 16 CPU cores for its crops. Score: none measured yet.
    """
    head = HeadConfig(prototypes=65_536, bottleneck=256)
    return Recipe(
        model=dataclasses.replace(presets.vit_small(image_size=224), layer_scale=1e-5),
        steps=100 * EPOCH,
        batch=1024,
        drop_path=0.1,
        dino_head=head,
        ibot_head=head,
        teacher=TeacherConfig(momentum=0.996),
        optim=OptimConfig(base_lr=1e-3, warmup=10 * EPOCH, final_weight_decay=0.2),
        crops=CropConfig(local_size=98),
        precision="bfloat16",
    )


def vits16_small_batch() -> Recipe:
    """ViT-S/16 with 128 images a step, for one small GPU (16 GB) or a few thousand to a million images.

    What differs from the paper and why: 16,384 prototypes, since a batch gives 256 class tokens and Sinkhorn-Knopp
    spreads them over all prototypes; teacher momentum 0.9995, which averages over as many images as 0.992 does at 2048
    (arXiv 2307.13813); drop path 0.1.

    Hardware and time: one GPU of 16 GB, 16 million images in about a day at 200 a second (computed, not run).
    Score: none measured yet.
    """
    head = HeadConfig(prototypes=16_384, bottleneck=256)
    return Recipe(
        model=dataclasses.replace(presets.vit_small(patch=16, image_size=224), layer_scale=1e-5),
        steps=100 * EPOCH,
        batch=128,
        drop_path=0.1,
        dino_head=head,
        ibot_head=head,
        teacher=TeacherConfig(momentum=0.9995),
        optim=OptimConfig(base_lr=1e-3, warmup=10 * EPOCH, final_weight_decay=0.2),
        precision="bfloat16",
    )


def demo() -> Recipe:
    """A small ViT for pictures of 32 pixels, as much as two laptop cores learn in a hundred seconds.

    What differs from the paper and why: sine positions and LayerScale from 1 (with 0.02 and 1e-5 a network of three
    blocks sees neither positions nor patches for hundreds of steps), 256 prototypes (a batch gives 64 class tokens),
    crops that keep half the picture (10 pixels of 32 show nothing), milder colours.

    Why three blocks: in 2.9 minutes of one processor three blocks see 41,000 pictures and reach 36.6 and 36.1 (two
    seeds; 10,000 train pictures held out), six blocks see 20,500 and reach 33.9 and 33.4, six blocks of width 128
    33.4 and 33.1. Six blocks are ahead from about fifteen minutes on: ``model.depth=6 model.dim=128 model.heads=4``.

    Hardware and time: two cores with bfloat16 instructions, 100 to 120 seconds for 850 steps. Score: weighted
    k-NN on CIFAR-10 (gallery 5,000, 2,000 test pictures on which no setting was chosen) 33 to 35 over three seeds; the
    same network untrained 26 to 27, centred raw pixels 37.7.
    """
    return Recipe(
        model=VitConfig(
            dim=96,
            depth=3,
            heads=3,
            patch=4,
            image_size=32,
            layer_scale=1.0,
            pos_init="sines",
            pos_offset=0.0,
            pos_antialias=True,
        ),
        steps=850,
        batch=32,
        dino_head=HeadConfig(prototypes=256, hidden=512, bottleneck=64),
        teacher=TeacherConfig(momentum=0.97, first_temperature=0.04, temperature=0.04, temperature_warmup=100),
        optim=OptimConfig(base_lr=6e-3, warmup=50, freeze_last_layer=20, final_weight_decay=0.1, patch_embed_lr=1.0),
        crops=CropConfig(
            global_size=24,
            local_size=12,
            locals=4,
            global_scale=(0.5, 1.0),
            local_scale=(0.2, 0.6),
            jitter=(0.2, 0.2, 0.1, 0.02),
            gray=0.05,
            blur=(0.0, 0.1, 0.1),
            blur_sigma=(0.3, 1.0),
            solarize=0.0,
        ),
        precision="bfloat16",
    )


def high_resolution(recipe: Recipe, size: int = 518, steps: int = 10_000, base_lr: float | None = None) -> Recipe:
    """The short stage at a larger size that follows pretraining (paper, section 4 and appendix B.2).

    Everything stays as in ``recipe`` but for the size of the global crops, the grid of positions, and all schedules,
    which are compressed to ``steps``. The learning rate is "reduced"; by how much is published nowhere, and here it is
    a tenth unless ``base_lr`` says otherwise. ``size`` is rounded down to a multiple of the patch.

    Start it from a trained network with both heads, whose positions ``initial.fitted`` brings to the larger grid.

    Hardware and time: the recipe's own hardware; a step has 3.4 times the tokens at 518 against 224. Score as
    published: ViT-g/14 83.5 k-NN, 86.5 linear on ImageNet-1k after it.
    """
    size = size // recipe.model.patch * recipe.model.patch
    part = steps / recipe.steps
    optim, teacher = recipe.optim, recipe.teacher
    return dataclasses.replace(
        recipe,
        model=dataclasses.replace(recipe.model, image_size=size),
        steps=steps,
        crops=dataclasses.replace(recipe.crops, global_size=size),
        teacher=dataclasses.replace(teacher, temperature_warmup=round(teacher.temperature_warmup * part)),
        optim=dataclasses.replace(
            optim,
            base_lr=optim.base_lr / 10 if base_lr is None else base_lr,
            warmup=round(optim.warmup * part),
            freeze_last_layer=round(optim.freeze_last_layer * part),
        ),
    )


def distil(teacher: Recipe, student: str = "vit_small") -> Recipe:
    """A smaller student of a frozen teacher with its heads (paper, section 5 and table 16).

    No masking and no stochastic depth; the patch loss is on every patch of both global crops; an average of the student
    is what ships. Batch 2048, 625,000 steps and a peak learning rate of 1e-3, which is a ``base_lr`` of 1e-3 / √2 by
    the square-root rule. Heads, crops and temperatures are the teacher's: its prototypes are the targets. KoLeo looks
    in the whole batch: how many images a GPU had is not published.

    Hardware and time as published: 4,500 (S), 5,300 (B), 8,000 (L) A100-40GB hours for a ViT-g teacher.
    Score: k-NN 79.0, 82.1, 83.5 on ImageNet-1k.

    Raises:
        ConfigError: no such shape, with the nearest name.
    """
    if student not in presets.PRESETS:
        raise ConfigError(
            f"no shape '{student}'{nearest(student, presets.PRESETS)}", todo=f"shapes: {', '.join(presets.PRESETS)}"
        )
    model = presets.PRESETS[student](teacher.model.registers, teacher.model.patch, teacher.model.image_size)
    return dataclasses.replace(
        teacher,
        model=dataclasses.replace(model, layer_scale=1e-5),
        steps=500 * EPOCH,
        batch=2048,
        drop_path=0.0,
        loss=dataclasses.replace(teacher.loss, koleo_group=0),
        masks=MaskConfig(probability=1.0, ratio=(1.0, 1.0)),
        optim=dataclasses.replace(teacher.optim, base_lr=1e-3 / math.sqrt(2), warmup=80 * EPOCH, layer_decay=1.0),
    )


_ALL = (vitl16_short, vitl14, vitg14, vits14_one_gpu, vits16_small_batch, demo)
RECIPES: dict[str, Callable[[], Recipe]] = {f.__name__: f for f in _ALL}


def get(name: str) -> Recipe:
    """The recipe called ``name``.

    Raises:
        ConfigError: there is none, with the nearest name.
    """
    if name not in RECIPES:
        raise ConfigError(f"no recipe '{name}'{nearest(name, RECIPES)}", todo=f"recipes: {', '.join(RECIPES)}")
    return RECIPES[name]()
