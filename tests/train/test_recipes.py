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
    assert r.loss.koleo_group == 2048 // 32  # within one of 32 GPUs
    assert (r.optim.weight_decay, r.optim.final_weight_decay) == (0.04, 0.4)
    assert (r.teacher.momentum, r.crops.local_size) == (0.992, 96)


@pytest.mark.parametrize(
    ("recipe", "shape", "on_one_gpu"),
    [
        (recipes.vitl14(), (1024, 24, 16), 3072 // 96),  # the code's vitl14.yaml: 32 images on each of 96 GPUs
        (recipes.vitg14(), (1536, 40, 24), 12),  # the code's vitg14.yaml: batch_size_per_gpu
    ],
)
def test_long_recipes(recipe: recipes.Recipe, shape: tuple[int, int, int], on_one_gpu: int) -> None:
    r = recipe  # table 16
    assert r.loss.koleo_group == on_one_gpu  # loss/koleo_loss.py: nothing is gathered
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


def test_one_gpu() -> None:
    r = recipes.vits14_one_gpu()
    assert (r.model.dim, r.model.depth, r.model.heads, r.model.patch) == (384, 12, 6, 14)  # table 17
    assert (r.steps, r.batch, r.crops.local_size, r.loss.targets) == (125_000, 1024, 98, "sinkhorn")
    assert r.ibot_head == r.dino_head, "untied: two heads of one shape"
    assert 1 - r.teacher.momentum == pytest.approx(0.008 * 1024 / 2048)  # arXiv 2307.13813, from the code's 0.992


def test_small_batch() -> None:
    r = recipes.vits16_small_batch()
    assert (r.model.dim, r.model.patch, r.batch, r.crops.local_size) == (384, 16, 128, 96)
    assert 1 - r.teacher.momentum == pytest.approx(0.008 * 128 / 2048)
    assert r.dino_head.prototypes == 16_384


def test_the_high_resolution_stage_changes_size_schedules_and_learning_rate_only() -> None:
    before = recipes.vitg14()
    r = recipes.high_resolution(before)  # appendix B.2
    assert (r.steps, r.crops.global_size, r.model.image_size) == (10_000, 518, 518)
    assert (r.optim.warmup, r.teacher.temperature_warmup, r.optim.freeze_last_layer) == (1_600, 600, 20)
    assert r.optim.base_lr == pytest.approx(2e-5)  # "reduced"; the value is not published
    back = {
        "steps": before.steps,
        "crops.global_size": 224,
        "model.image_size": before.model.image_size,
        "optim.warmup": before.optim.warmup,
        "optim.base_lr": before.optim.base_lr,
        "optim.freeze_last_layer": before.optim.freeze_last_layer,
        "teacher.temperature_warmup": before.teacher.temperature_warmup,
    }
    assert override(r, back) == before
    assert recipes.high_resolution(recipes.vitl16_short(), 518).crops.global_size == 512  # 32 patches of 16


@pytest.mark.parametrize(("student", "dim", "depth"), [("vit_small", 384, 12), ("vit_base", 768, 12)])
def test_distillation(student: str, dim: int, depth: int) -> None:
    taught = recipes.vitg14()
    r = recipes.distil(taught, student)  # table 16 and section 5
    assert (r.model.dim, r.model.depth, r.model.ffn, r.model.patch) == (dim, depth, "mlp", 14)
    assert (r.batch, r.steps, r.drop_path) == (2048, 625_000, 0.0)
    assert r.lr == pytest.approx(1e-3)
    assert (r.masks.probability, r.masks.ratio) == (1.0, (1.0, 1.0)), "every patch is a target, none is hidden"
    assert r.loss.koleo_group == 0, "the whole batch; images a GPU are not published"
    assert (r.dino_head, r.ibot_head, r.teacher) == (taught.dino_head, taught.ibot_head, taught.teacher)


def test_distillation_into_an_unknown_shape_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="vit_small"):
        recipes.distil(recipes.vitg14(), "vit_smal")


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_every_recipe_states_hardware_and_score(name: str) -> None:
    text = recipes.RECIPES[name].__doc__ or ""
    assert "Hardware and time" in text
    assert "Score" in text


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
        ({"loss.koleo_group": 5}, "divide the batch of 32"),
        ({"loss.koleo_group": 1}, "at least 2"),
        ({"model.heads": 5}, "not a multiple of 5 heads"),
    ],
)
def test_wrong_settings_are_explained(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        override(recipes.demo(), changes)


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="vitl14"):
        recipes.get("vitl15")


@pytest.mark.parametrize("name", ["vits14_one_gpu", "vits16_small_batch", "demo"])
def test_our_own_recipes_look_for_neighbours_in_the_whole_batch(name: str) -> None:
    assert recipes.get(name).loss.koleo_group == 0


def test_all_settings_have_names() -> None:
    assert {"steps", "model.patch", "ibot_head.bottleneck", "teacher.momentum"} <= set(settings(recipes.demo()))
