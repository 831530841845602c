"""The recipes against the paper and its code, each constant with its place; and settings replaced strictly."""

from __future__ import annotations

import pytest

from dinov2_core.errors import ConfigError
from dinov2_core.train import recipes, schedules
from dinov2_core.train.recipe import override, settings


def test_vitl16_short() -> None:
    r = recipes.vitl16_short()  # FACTS of the code's configs/train/vitl16_short.yaml
    assert (r.model.dim, r.model.depth, r.model.heads, r.model.patch, r.model.ffn) == (1024, 24, 16, 16, "mlp")
    assert (r.steps, r.batch) == (125_000, 2048)
    assert r.lr == pytest.approx(5.66e-3, rel=1e-3)  # 4e-3 at 1024, square-root rule
    assert (r.optim.warmup, r.optim.layer_decay, r.drop_path) == (12_500, 0.9, 0.3)
    assert (r.dino_head.prototypes, r.dino_head.bottleneck, r.ibot_head) == (65_536, 256, None)
    assert r.loss.targets == "centering"
    assert (r.optim.weight_decay, r.optim.final_weight_decay) == (0.04, 0.4)
    assert (r.teacher.momentum, r.crops.local_size) == (0.992, 96)


@pytest.mark.parametrize(("recipe", "shape"), [(recipes.vitl14(), (1024, 24, 16)), (recipes.vitg14(), (1536, 40, 24))])
def test_long_recipes(recipe: recipes.Recipe, shape: tuple[int, int, int]) -> None:
    r = recipe  # table 16
    assert (r.model.dim, r.model.depth, r.model.heads) == shape
    assert (r.model.patch, r.model.ffn, r.model.layer_scale) == (14, "swiglu", 1e-5)
    assert (r.steps, r.batch) == (625_000, 3072)
    assert r.lr == pytest.approx(3.5e-4, rel=2e-2)
    assert (r.optim.warmup, r.optim.layer_decay, r.drop_path) == (100_000, 1.0, 0.4)
    assert r.ibot_head is not None
    assert (r.dino_head.prototypes, r.dino_head.bottleneck) == (131_072, 384)
    assert (r.ibot_head.prototypes, r.ibot_head.bottleneck) == (131_072, 256)
    assert (r.loss.targets, r.teacher.momentum, r.crops.local_size) == ("sinkhorn", 0.994, 98)
    assert (r.optim.weight_decay, r.optim.final_weight_decay) == (0.04, 0.2)


@pytest.mark.parametrize("recipe", [recipes.vitl16_short(), recipes.vitl14(), recipes.vitg14()])
def test_what_all_of_the_papers_recipes_share(recipe: recipes.Recipe) -> None:
    r = recipe  # section 4 and appendix B.1; the code's ssl_default_config.yaml
    assert (r.loss.dino, r.loss.ibot, r.loss.koleo, r.loss.student_temperature) == (1.0, 1.0, 0.1, 0.1)
    assert (r.teacher.first_temperature, r.teacher.temperature, r.teacher.temperature_warmup) == (0.04, 0.07, 37_500)
    assert r.teacher.final_momentum == 1.0
    assert (r.crops.global_size, r.crops.locals) == (224, 8)
    assert (r.crops.global_scale, r.crops.local_scale) == ((0.32, 1.0), (0.05, 0.32))
    assert (r.masks.probability, r.masks.ratio) == (0.5, (0.1, 0.5))
    assert (r.optim.clip, r.optim.patch_embed_lr, r.optim.freeze_last_layer) == (3.0, 0.2, 1_250)
    assert (r.optim.beta1, r.optim.beta2, r.optim.min_lr) == (0.9, 0.999, 1e-6)


def test_schedules_of_a_recipe() -> None:
    plan = schedules.of(recipes.vitg14())
    assert plan.lr(0) == 0
    assert plan.lr(99_999) == pytest.approx(recipes.vitg14().lr)
    assert plan.lr(625_000) == 1e-6
    assert plan.last_layer_lr(1_249) == 0
    assert plan.last_layer_lr(1_250) == plan.lr(1_250) > 0
    assert (plan.weight_decay(0), plan.weight_decay(625_000)) == (pytest.approx(0.04), 0.2)
    assert (plan.momentum(0), plan.momentum(625_000)) == (pytest.approx(0.994), 1.0)
    assert (plan.teacher_temperature(0), plan.teacher_temperature(37_499)) == (0.04, pytest.approx(0.07))


def test_a_dotted_setting_replaces_one_value() -> None:
    changed = override(recipes.demo(), {"optim.base_lr": 1e-3, "steps": 5, "crops.global_scale": [0.2, 0.9]})
    assert (changed.optim.base_lr, changed.steps, changed.crops.global_scale) == (1e-3, 5, (0.2, 0.9))
    assert changed.model == recipes.demo().model


def test_an_absent_section_can_be_given() -> None:
    untied = override(recipes.demo(), {"ibot_head.prototypes": 64})
    assert untied.ibot_head is not None
    assert untied.ibot_head.prototypes == 64


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optim.lr": 1.0}, "did you mean"),
        ({"steps": "many"}, "expected int"),
        ({"crops.global_size": 33}, "not a multiple"),
        ({"batch": 1}, "at least 2"),
        ({"model.heads": 5}, "not a multiple of 5 heads"),
    ],
)
def test_wrong_settings_are_explained(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        override(recipes.demo(), changes)


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="vitl14"):
        recipes.get("vitl15")


def test_all_settings_have_names() -> None:
    assert {"steps", "model.patch", "ibot_head.bottleneck", "teacher.momentum"} <= set(settings(recipes.demo()))
