"""The named recipes, each a function that returns a frozen configuration."""

from __future__ import annotations

from collections.abc import Callable

from dinov2_core.errors import ConfigError, nearest
from dinov2_core.model.heads import HeadConfig
from dinov2_core.model.vision_transformer import VitConfig
from dinov2_core.train.recipe import CropConfig, LossConfig, OptimConfig, Recipe, TeacherConfig

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
        loss=LossConfig(targets="centering"),
        optim=OptimConfig(base_lr=4e-3, warmup=10 * EPOCH, layer_decay=0.9),
    )


def vitl14() -> Recipe:
    """ViT-L/14 on ImageNet-22k, the paper's setting (table 16).

    Hardware and time as published: 96 A100-80GB, 3.3 days. Score: k-NN 82.0, linear 84.5 on ImageNet-1k.
    """
    return _long(VitConfig(dim=1024, depth=24, heads=16, patch=14, image_size=224, ffn="swiglu"))


def vitg14() -> Recipe:
    """ViT-g/14 on LVD-142M, the paper's setting (table 16).

    Hardware and time as published: 22,016 A100-40GB hours. Score: k-NN 83.5, linear 86.5 on ImageNet-1k (after the
    stage at 518 pixels).
    """
    return _long(VitConfig(dim=1536, depth=40, heads=24, patch=14, image_size=224, ffn="swiglu"))


def _long(model: VitConfig) -> Recipe:
    return Recipe(
        model=model,
        steps=500 * EPOCH,
        batch=3072,
        drop_path=0.4,
        dino_head=HeadConfig(prototypes=131_072, bottleneck=384),
        ibot_head=HeadConfig(prototypes=131_072, bottleneck=256),
        teacher=TeacherConfig(momentum=0.994),
        optim=OptimConfig(base_lr=2e-4, warmup=80 * EPOCH, final_weight_decay=0.2),
        crops=CropConfig(local_size=98),
    )


def demo() -> Recipe:
    """A small ViT for pictures of 32 pixels, as much as two laptop cores learn in a hundred seconds.

    What differs from the paper and why: sine positions and LayerScale from 1 (with 0.02 and 1e-5 a network of three
    blocks sees neither positions nor patches for hundreds of steps), 256 prototypes (a batch gives 64 class tokens),
    crops that keep half the picture (10 pixels of 32 show nothing), milder colours.

    Hardware and time: two cores with bfloat16 instructions, 100 to 120 seconds for 4,500 pictures. Score: weighted
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


RECIPES: dict[str, Callable[[], Recipe]] = {f.__name__: f for f in (vitl16_short, vitl14, vitg14, demo)}


def get(name: str) -> Recipe:
    """The recipe called ``name``.

    Raises:
        ConfigError: there is none, with the nearest name.
    """
    if name not in RECIPES:
        raise ConfigError(f"no recipe '{name}'{nearest(name, RECIPES)}", todo=f"recipes: {', '.join(RECIPES)}")
    return RECIPES[name]()
