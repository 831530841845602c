"""Where a training may start: any checkpoint, brought to the recipe's grid, strict about everything else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dinov2_core.errors import UserError
from dinov2_core.model import weights
from dinov2_core.model.preprocessing import Preprocessing
from dinov2_core.train import initial, recipes
from dinov2_core.train.objective import build_network
from dinov2_core.train.recipe import Recipe, override

SMALL = {
    "model.dim": 64,
    "model.heads": 1,
    "model.depth": 2,
    "dino_head.prototypes": 32,
    "dino_head.hidden": 32,
    "dino_head.bottleneck": 16,
}


def recipe(**changes: object) -> Recipe:
    return override(recipes.demo(), SMALL | changes)


def network(r: Recipe) -> torch.nn.ModuleDict:
    return build_network(r.model, r.dino_head, r.ibot_head)


@pytest.fixture
def checkpoint(tmp_path: Path) -> tuple[Path, torch.nn.ModuleDict]:
    made = network(recipe())
    torch.save({"teacher": made.state_dict()}, tmp_path / "teacher_checkpoint.pth")
    return tmp_path / "teacher_checkpoint.pth", made


def test_a_training_checkpoint_gives_backbone_and_heads(checkpoint: tuple[Path, torch.nn.ModuleDict]) -> None:
    path, made = checkpoint
    read = initial.read(path)
    assert (read.model.dim, read.dino_head, read.ibot_head) == (64, recipe().dino_head, None)
    start = initial.fitted(read, recipe())
    assert all(torch.equal(start[k], v) for k, v in made.state_dict().items())
    teacher = read.module()
    assert all(torch.equal(teacher.state_dict()[k], v) for k, v in made.state_dict().items())


def test_positions_come_to_the_recipes_grid(checkpoint: tuple[Path, torch.nn.ModuleDict]) -> None:
    larger = recipes.high_resolution(recipe(), 48, steps=10)
    start = initial.fitted(initial.read(checkpoint[0]), larger)
    assert start["backbone.pos_embed"].shape == (1, 1 + 12 * 12, 64)
    assert torch.equal(start["dino_head.last_layer.weight_v"], checkpoint[1]["dino_head"].last_layer.weight_v)


def test_a_backbone_alone_starts_with_fresh_heads_and_cannot_teach(tmp_path: Path) -> None:
    made = network(recipe())
    path = tmp_path / "teacher.safetensors"
    path.write_bytes(weights.to_bytes(made["backbone"], Preprocessing(32)))  # type: ignore[arg-type]
    read = initial.read(path)
    start = initial.fitted(read, read.shaped(recipes.demo()))
    assert torch.equal(start["backbone.cls_token"], made["backbone"].cls_token)
    assert start["dino_head.last_layer.weight_v"].shape[0] == recipes.demo().dino_head.prototypes
    with pytest.raises(UserError, match="a teacher needs its heads"):
        read.module()


def test_another_shape_is_refused_with_every_difference(checkpoint: tuple[Path, torch.nn.ModuleDict]) -> None:
    with pytest.raises(UserError, match=r"missing.*blocks\.2"):
        initial.fitted(initial.read(checkpoint[0]), recipe(**{"model.depth": 3}))


def test_the_folder_of_an_unfinished_run_says_so(tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text("{}")
    with pytest.raises(UserError, match="has not finished"):
        initial.read(tmp_path)
