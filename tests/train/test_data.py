"""Batches, crops and masks: functions of the seed and the step, with the statistics the recipe states."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dinov2_core.train import augmentation, recipes
from dinov2_core.train.batches import PoolBatches, step_seed
from dinov2_core.train.masking import block_mask, draw_masks
from dinov2_core.train.recipe import CropConfig, MaskConfig, override

PLAIN = CropConfig(
    global_size=8,
    local_size=4,
    locals=2,
    global_scale=(1.0, 1.0),
    flip=0.0,
    jitter_probability=0.0,
    gray=0.0,
    blur=(0.0, 0.0, 0.0),
    solarize=0.0,
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(
    rows=st.integers(1, 12),
    columns=st.integers(1, 12),
    ratio=st.floats(0, 1),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=200, deadline=None)
def test_a_mask_has_exactly_its_count(rows: int, columns: int, ratio: float, seed: int) -> None:
    target = round(ratio * rows * columns)
    assert block_mask(rows, columns, target, np.random.default_rng(seed)).sum() == target


def test_masks_of_a_batch_are_half_the_crops_spread_evenly_over_the_ratios() -> None:
    masks = draw_masks(40, 14, 14, MaskConfig(0.5, (0.1, 0.5)), np.random.default_rng(0))
    ratios = np.sort(masks.mean(axis=1)[masks.any(axis=1)])
    assert len(ratios) == 20
    edges = np.linspace(0.1, 0.5, 21)
    slack = 0.5 / 196  # a whole number of patches
    assert ((ratios >= edges[:-1] - slack) & (ratios <= edges[1:] + slack)).all()


def test_masks_are_blocks_rather_than_dust() -> None:
    mask = block_mask(14, 14, 60, np.random.default_rng(1))
    alike = (mask[1:] == mask[:-1]).mean()
    dust = np.random.default_rng(1).permutation(mask.ravel()).reshape(14, 14)
    assert alike > (dust[1:] == dust[:-1]).mean() + 0.15


def test_the_whole_picture_unaltered_is_the_picture() -> None:
    images = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8)
    # An area of 1 leaves only the square aspect, up to clamping.
    down = augmentation.sampling_matrix(torch.zeros(3), torch.full((3,), 8.0), 8, 8)
    assert torch.allclose(down, torch.eye(8).expand(3, 8, 8))
    flat = torch.full((2, 3, 8, 8), 51, dtype=torch.uint8)
    first, local = augmentation.multi_crop(flat, PLAIN, generator())
    assert first.shape == (4, 3, 8, 8)
    assert local.shape == (4, 3, 4, 4)
    assert torch.allclose(first, torch.tensor(0.2))
    assert images.dtype == torch.uint8


@given(start=st.floats(0, 20), length=st.floats(0.5, 20), size=st.integers(1, 40))
@settings(max_examples=100, deadline=None)
def test_sampling_weights_sum_to_one(start: float, length: float, size: int) -> None:
    matrix = augmentation.sampling_matrix(torch.tensor([start]), torch.tensor([length]), 40, size)
    assert torch.isfinite(matrix).all()
    assert torch.allclose(matrix.sum(-1), torch.ones(1, size), atol=1e-5)


def test_resampling_agrees_with_pytorchs_antialiased_resize() -> None:
    images = torch.rand(2, 3, 24, 24)
    matrix = augmentation.sampling_matrix(torch.zeros(2), torch.full((2,), 24.0), 24, 9)
    ours = matrix[:, None] @ images @ matrix[:, None].transpose(2, 3)
    theirs = torch.nn.functional.interpolate(images, size=(9, 9), mode="bilinear", antialias=True)
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_a_flip_mirrors() -> None:
    images = torch.rand(4, 3, 8, 8)
    plain = augmentation.resized_crop(images, 8, (0.5, 1.0), 0.0, generator())
    mirrored = augmentation.resized_crop(images, 8, (0.5, 1.0), 1.0, generator())
    assert torch.allclose(plain.flip(-1), mirrored, atol=1e-6)


def test_gray_has_one_colour_and_keeps_its_luma() -> None:
    images = torch.rand(4, 3, 8, 8) * 0.8
    crops = CropConfig(jitter_probability=0.0, gray=1.0)
    out = augmentation.jitter_colours(images, crops, generator())
    luma = (images * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    assert torch.allclose(out, luma.expand(-1, 3, -1, -1), atol=1e-3)


def test_no_jitter_changes_nothing() -> None:
    images = torch.rand(4, 3, 8, 8)
    out = augmentation.jitter_colours(images, CropConfig(jitter_probability=0.0, gray=0.0), generator())
    assert torch.allclose(out, images, atol=1e-5)


def test_blur_keeps_the_mean_of_a_flat_picture_and_smooths_noise() -> None:
    flat, noise = torch.full((4, 3, 8, 8), 0.3), torch.rand(4, 3, 8, 8)
    assert torch.allclose(augmentation.gaussian_blur(flat, 1.0, (1.0, 2.0), generator()), flat, atol=1e-6)
    assert augmentation.gaussian_blur(noise, 1.0, (1.0, 2.0), generator()).std() < 0.6 * noise.std()


@pytest.fixture
def batches() -> PoolBatches:
    recipe = override(recipes.demo(), {"batch": 8})
    pool = torch.randint(0, 256, (20, 3, 32, 32), dtype=torch.uint8, generator=generator())
    return PoolBatches(pool, recipe)


def test_a_batch_is_a_function_of_the_step_alone(batches: PoolBatches) -> None:
    forwards, backwards = [batches(i) for i in range(4)], [batches(i) for i in reversed(range(4))][::-1]
    for one, two in zip(forwards, backwards, strict=True):
        for name in ("global_crops", "local_crops", "masks", "ids"):
            assert torch.equal(getattr(one, name), getattr(two, name))
    assert not torch.equal(forwards[0].masks, forwards[1].masks)


def test_every_epoch_sees_every_image_once(batches: PoolBatches) -> None:
    seen = np.concatenate([batches.indices(i) for i in range(5)])  # 40 = two epochs of 20
    assert sorted(seen[:20]) == sorted(seen[20:]) == list(range(20))
    assert seen[:20].tolist() != seen[20:].tolist()


def test_shapes_are_the_recipes(batches: PoolBatches) -> None:
    batch, recipe = batches(0), batches.recipe
    g, s, n = recipe.crops.global_size, recipe.crops.local_size, recipe.crops.locals
    assert batch.global_crops.shape == (16, 3, g, g)
    assert batch.local_crops.shape == (8 * n, 3, s, s)
    assert batch.masks.shape == (16, (g // recipe.model.patch) ** 2)


def test_fewer_images_than_a_batch_are_refused() -> None:
    with pytest.raises(ValueError, match="fewer than one batch"):
        PoolBatches(torch.zeros(4, 3, 32, 32, dtype=torch.uint8), recipes.demo())


def test_streams_of_one_step_differ() -> None:
    assert len({step_seed(0, 5, s) for s in ("crops", "masks", "network")} | {step_seed(0, 6, "crops")}) == 4
