"""The grid at once equals its heads one by one, under PyTorch's own optimiser."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dinov2_core.errors import UserError
from dinov2_core.evaluate.linear_grid import PAPER_RATES, LinearGrid, inputs

STEPS = 30


def batches(seed: int = 0) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    g = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(16, 4, 6, generator=g), torch.randn(16, 6, generator=g), torch.randint(3, (16,), generator=g))
        for _ in range(STEPS)
    ]


def test_the_papers_grid_has_52_heads() -> None:
    assert len(LinearGrid(6, 4, 3, steps=1).heads) == 52
    assert len(PAPER_RATES) == 13


def test_a_backbone_of_one_block_has_half_of_them() -> None:
    assert len(LinearGrid(6, 1, 3, steps=1).heads) == 26


def test_every_head_equals_the_one_trained_alone() -> None:
    grid = LinearGrid(6, 4, 3, steps=STEPS, rates=(0.01, 0.5))
    first = [tuple(x.clone() for x in grid.of(head)) for head in grid.heads]
    grid.train(batches())
    for head, (weight, bias) in zip(grid.heads, first, strict=True):
        linear = nn.Linear(weight.shape[1], 3)
        linear.weight.data, linear.bias.data = weight, bias
        sgd = torch.optim.SGD(linear.parameters(), lr=head.rate, momentum=0.9, weight_decay=0)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, STEPS)
        for cls, mean, labels in batches():
            loss = nn.functional.cross_entropy(linear(inputs(cls, mean, head.blocks, head.mean_patch)), labels)
            sgd.zero_grad()
            loss.backward()
            sgd.step()
            schedule.step()
        assert torch.allclose(grid.of(head)[0], linear.weight, atol=1e-5), head
        assert torch.allclose(grid.of(head)[1], linear.bias, atol=1e-5), head


def test_predictions_stand_in_the_order_of_the_heads() -> None:
    grid = LinearGrid(6, 4, 3, steps=STEPS, rates=(0.01, 0.5)).train(batches())
    cls, mean, _ = batches(1)[0]
    found = grid.predict(cls, mean, block=5)
    for row, head in zip(found, grid.heads, strict=True):
        weight, bias = grid.of(head)
        alone = nn.functional.linear(inputs(cls, mean, head.blocks, head.mean_patch), weight, bias).argmax(dim=1)
        assert (row == alone.numpy()).all()


def test_a_grid_that_diverged_whole_is_an_error() -> None:
    with pytest.raises(UserError, match="diverged"):
        LinearGrid(6, 4, 3, steps=STEPS, rates=(float("inf"),)).train(batches())
