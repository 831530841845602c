"""Networks to start from: read out of any checkpoint, and brought to the shape that a recipe trains.

What formats there are is ``model/weights``'s business. The state of an interrupted run (optimiser, step) is another
thing: ``checkpoint`` has it.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from dinov2_core import config
from dinov2_core.errors import UserError
from dinov2_core.model import position, shape, weights
from dinov2_core.model.heads import HeadConfig
from dinov2_core.model.mismatch import load_strict
from dinov2_core.model.vision_transformer import VitConfig
from dinov2_core.train import checkpoint
from dinov2_core.train.objective import build_network
from dinov2_core.train.recipe import Recipe

NETWORK = "network.safetensors"
"""In the folder of a run: the averaged network with its heads."""
RECIPE = "recipe.json"
_POSITIONS = "backbone.pos_embed"


@dataclass(frozen=True)
class Network:
    """A network as read: tensors named as in ``objective.build_network``, and the shapes they fit."""

    tensors: dict[str, Tensor]
    model: VitConfig
    dino_head: HeadConfig | None
    """None where the checkpoint has no heads"""
    ibot_head: HeadConfig | None
    where: str

    def shaped(self, recipe: Recipe) -> Recipe:
        """``recipe`` with the shapes of this network; its image size stays, and its heads where there are none here."""
        model = dataclasses.replace(self.model, image_size=recipe.model.image_size)
        if self.dino_head is None:
            return dataclasses.replace(recipe, model=model)
        return dataclasses.replace(recipe, model=model, dino_head=self.dino_head, ibot_head=self.ibot_head)

    def module(self) -> nn.ModuleDict:
        """The network itself, to be a frozen teacher.

        Raises:
            UserError: the checkpoint has no heads, so it has no targets to give.
        """
        if self.dino_head is None:
            raise UserError(
                "a teacher needs its heads, and this checkpoint has none",
                where=self.where,
                todo="give a training checkpoint (teacher_checkpoint.pth) or the folder of a run",
            )
        made = build_network(self.model, self.dino_head, self.ibot_head)
        load_strict(made, self.tensors, where=self.where)
        return made


def read(path: str | Path) -> Network:
    """The network in ``path``: the folder of a run, or whatever ``weights.load_training_state`` knows.

    Raises:
        UserError: as there; or the folder's run has not finished.
    """
    path = Path(path)
    if (path / RECIPE).exists():
        if not (path / NETWORK).exists():
            raise UserError("this run has not finished", where=str(path), todo="run it to its end first")
        recipe = config.build(Recipe, json.loads((path / RECIPE).read_text()), where=str(path / RECIPE))
        tensors, _ = checkpoint.load(path / NETWORK)
        return Network(tensors, recipe.model, recipe.dino_head, recipe.ibot_head, str(path))
    model = weights.load(path)[0].config
    tensors = weights.load_training_state(path)
    _, dino_head, ibot_head = shape.of_training_state(tensors, heads=model.heads, where=str(path))
    return Network(tensors, model, dino_head, ibot_head, str(path))


def fitted(network: Network, recipe: Recipe) -> dict[str, Tensor]:
    """The tensors that ``recipe`` starts from: positions on its grid; heads that are missing freshly drawn.

    Raises:
        UserError: the shapes differ in more than the grid of positions; every difference is listed.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        made = build_network(recipe.model, recipe.dino_head, recipe.ibot_head)
    grid = recipe.model.image_size // recipe.model.patch
    tensors = dict(network.tensors)
    if _POSITIONS in tensors:
        tensors[_POSITIONS] = position.interpolate(
            tensors[_POSITIONS],
            grid,
            grid,
            square=True,
            offset=recipe.model.pos_offset,
            antialias=recipe.model.pos_antialias,
        )
    if network.dino_head is None:
        tensors |= {k: v for k, v in made.state_dict().items() if not k.startswith("backbone.")}
    load_strict(made, tensors, where=network.where)
    return made.state_dict()
