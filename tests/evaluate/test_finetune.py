"""Fine-tuning on a tiny set: what learns, how fast, and what the low-rank option leaves alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dinov2_core.errors import ConfigError, UserError
from dinov2_core.evaluate import evaluation, lora
from dinov2_core.evaluate.cache import FeatureCache
from dinov2_core.evaluate.finetune_protocol import FinetuneOptions, classifier, follow, optimizer, run_finetune, train
from dinov2_core.evaluate.protocol import Context
from tests.evaluate.test_evaluation import model, tree

QUICK = FinetuneOptions(epochs=6, batch=8, lr=1e-3, head_lr=3e-2, ema=0.9, drop_path=0.2)


@pytest.mark.parametrize("options", [QUICK, replace(QUICK, lora_rank=2), replace(QUICK, size=32)])
def test_two_colours_are_learnt_and_the_model_stays_as_it_was(options: FinetuneOptions, tmp_path: Path) -> None:
    one = model()
    before = {k: v.clone() for k, v in one.backbone.state_dict().items()}
    data = evaluation.open_data(str(tree(tmp_path / "set")))
    found = run_finetune(one, data, options, Context(FeatureCache(tmp_path / "c")))
    assert found.named("accuracy").value >= 0.9
    assert found.details["size"] == (options.size or 16)
    assert all(torch.equal(before[k], v) for k, v in one.backbone.state_dict().items())


def test_rates_fall_by_the_layer_decay_towards_the_input_and_the_head_has_its_own() -> None:
    groups = {g["name"]: g for g in optimizer(classifier(model(), 2, QUICK), QUICK).param_groups}
    share = {name: group["share"] for name, group in groups.items()}
    # Two blocks: input, block 1, block 2, then the last norm.
    assert share["backbone.norm.weight"] == 1
    assert share["backbone.blocks.1.norm1.weight"] == pytest.approx(0.75)
    assert share["backbone.blocks.0.norm1.weight"] == pytest.approx(0.75**2)
    assert share["backbone.pos_embed"] == pytest.approx(0.75**3)
    assert share["head.weight"] == pytest.approx(30)
    assert groups["head.bias"]["weight_decay"] == 0
    assert groups["head.weight"]["weight_decay"] == 0.02


def test_low_rank_products_change_nothing_at_first_and_alone_are_trained() -> None:
    one = model()
    images = torch.randn(2, 3, 16, 16)
    made = classifier(one, 2, replace(QUICK, lora_rank=2)).eval()
    with torch.no_grad():
        assert torch.allclose(made.backbone(images).cls, one.backbone(images).cls, atol=1e-6)
    trained = {name for name, p in made.named_parameters() if p.requires_grad}
    assert {name.rsplit(".", 1)[1] for name in trained if name.startswith("backbone.")} == {"down", "up"}
    assert {"head.weight", "head.bias"} <= trained


def test_merged_products_give_the_same_outputs_under_the_old_keys() -> None:
    one = model()
    backbone = classifier(one, 2, replace(QUICK, lora_rank=2)).backbone.eval()
    for name, parameter in backbone.named_parameters():
        if name.endswith(".up"):
            torch.nn.init.normal_(parameter, std=0.1)
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        before = backbone(images).cls
        lora.merge(backbone)
        assert torch.allclose(backbone(images).cls, before, atol=1e-6)
        assert not torch.allclose(one.backbone(images).cls, before, atol=1e-3)
    assert backbone.state_dict().keys() == one.backbone.state_dict().keys()


def test_the_average_moves_by_its_decay() -> None:
    one, two = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    wanted = 0.9 * one.weight.detach().clone() + 0.1 * two.weight.detach()
    follow(one, two, 0.9)
    assert torch.allclose(one.weight, wanted)


def test_a_run_is_repeatable_and_drops_paths_while_it_trains(tmp_path: Path) -> None:
    data = evaluation.open_data(str(tree(tmp_path / "set", count=8)))
    context = Context(FeatureCache(tmp_path / "c"))

    def weights(rate: float) -> torch.Tensor:
        return train(model(), data, replace(QUICK, epochs=1, drop_path=rate), context).head.weight

    assert torch.equal(weights(0.5), weights(0.5))
    assert not torch.equal(weights(0.5), weights(0.0))


def test_wrong_sizes_rates_and_settings_are_errors(tmp_path: Path) -> None:
    data = evaluation.open_data(str(tree(tmp_path / "set", count=8)))
    context = Context(FeatureCache(tmp_path / "c"))
    with pytest.raises(UserError, match="18 pixels are not a multiple of 4"):
        run_finetune(model(), data, replace(QUICK, size=18), context)
    with pytest.raises(UserError, match="not finite"):
        run_finetune(model(), data, replace(QUICK, lr=1e30, head_lr=1e30, warmup=0.0), context)
    with pytest.raises(ConfigError, match="outside 0 to 1"):
        evaluation.evaluate(model(), data, ["finetune"], context, {"finetune": {"ema": 1.0}})
