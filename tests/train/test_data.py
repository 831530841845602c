"""Batches, crops and masks: functions of the seed and the step, with the statistics the recipe states."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms as v1
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from dinov2_core.errors import ConfigError
from dinov2_core.images.decode import Decoded, decode
from dinov2_core.train import augmentation, image_crops, recipes
from dinov2_core.train.batches import PoolBatches, step_seed
from dinov2_core.train.masking import block_mask, draw_masks
from dinov2_core.train.recipe import CropConfig, MaskConfig, override
from dinov2_core.train.sampler import permuted
from dinov2_core.train.views import Views, draw

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
    masks = draw_masks(40, 14, 14, MaskConfig(0.5, (0.1, 0.5)), 0)
    ratios = np.sort(masks.mean(axis=1)[masks.any(axis=1)])
    assert len(ratios) == 20
    edges = np.linspace(0.1, 0.5, 21)
    slack = 0.5 / 196  # a whole number of patches
    assert ((ratios >= edges[:-1] - slack) & (ratios <= edges[1:] + slack)).all()


def test_masks_of_a_part_of_the_batch_are_that_part_of_the_masks() -> None:
    whole = draw_masks(16, 7, 7, MaskConfig(), 3)
    assert np.array_equal(draw_masks(16, 7, 7, MaskConfig(), 3, np.array([2, 9])), whole[[2, 9]])


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
    first, local = augmentation.multi_crop(flat, drawn(PLAIN, range(2), (8, 8)), PLAIN)
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


def plain_views(count: int, side: int, **changes: object) -> Views:
    """One view an image, of the whole picture and unaltered but for ``changes``."""
    none, one = np.zeros((count, 1)), np.ones((count, 1))
    boxes = np.tile(np.array([0.0, 0.0, side, side]), (count, 1, 1))
    made = Views(boxes, none > 0, one, one, one, none, none > 0, none, none > 0)
    return dataclasses.replace(made, **changes).by_view()  # type: ignore[arg-type]


def drawn(crops: CropConfig = CropConfig(), rows: range = range(40), size: tuple[int, int] = (60, 90)) -> Views:
    return draw(crops, 7, rows, np.tile(size, (len(rows), 1)))


def test_what_is_drawn_for_an_image_depends_on_its_row_alone() -> None:
    whole, part = drawn(), drawn(rows=range(13, 21))
    for one in dataclasses.fields(Views):
        assert np.array_equal(getattr(whole, one.name)[13:21], getattr(part, one.name)), one.name


def test_boxes_have_the_areas_and_aspects_of_the_recipe_and_lie_inside() -> None:
    views = drawn(rows=range(400))
    top, left, tall, wide = np.moveaxis(views.boxes, -1, 0)
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + tall <= 60 + 1e-9).all()
    assert (left + wide <= 90 + 1e-9).all()
    area = tall * wide / (60 * 90)
    assert 0.32 <= area[:, :2].min() < 0.36
    assert 0.85 < area[:, :2].max() < 0.89  # the widest box that fits: 60 × 80
    assert 0.05 <= area[:, 2:].min() < 0.06
    assert 0.31 < area[:, 2:].max() <= 0.32
    assert ((wide / tall).min() > 0.74, (wide / tall).max() < 1.34) == (True, True)


def test_boxes_are_distributed_as_torchvisions() -> None:
    views, count = drawn(rows=range(2000), size=(50, 150)), 2000
    image = torch.zeros(3, 50, 150)
    theirs = np.array([v1.RandomResizedCrop.get_params(image, [0.32, 1.0], [3 / 4, 4 / 3]) for _ in range(count)])
    ours = views.boxes[:, 0]
    # A wide picture: the large boxes do not fit, so both the tries and the fallback count.
    assert ours.mean(axis=0) == pytest.approx(theirs.mean(axis=0), rel=0.07)
    assert ours.std(axis=0) == pytest.approx(theirs.std(axis=0), rel=0.15)


def test_probabilities_are_the_recipes() -> None:
    views = drawn(CropConfig(), range(2000))
    assert (views.sigma[:, 0] > 0).mean() == 0
    assert (views.sigma[:, 1] > 0).mean() == pytest.approx(0.9, abs=0.03)
    assert (views.sigma[:, 2:] > 0).mean() == pytest.approx(0.5, abs=0.03)
    assert views.gray.mean() == pytest.approx(0.2, abs=0.02)
    assert (views.turn != 0).mean() == pytest.approx(0.8, abs=0.02)
    assert views.solarize[:, 1].mean() == pytest.approx(0.2, abs=0.04)
    assert not views.solarize[:, [0, 2, 9]].any()
    assert views.flip.mean() == pytest.approx(0.5, abs=0.02)


def test_blur_by_name() -> None:
    assert CropConfig().blur_probabilities == (0.0, 0.9, 0.5)  # facebookresearch/dinov2 issue 411
    intended = override(recipes.vitl14(), {"crops.blur": "as_intended"}).crops
    assert intended.blur_probabilities == (1.0, 0.1, 0.5)
    assert override(recipes.vitl14(), {"crops.blur": [0.0, 0.1, 0.2]}).crops.blur_probabilities == (0.0, 0.1, 0.2)
    with pytest.raises(ConfigError, match="as_intended"):
        override(recipes.vitl14(), {"crops.blur": "intended"})


def test_a_flip_mirrors() -> None:
    images = torch.rand(4, 3, 8, 8)
    plain = augmentation.resized_crop(images, plain_views(4, 8), 5)
    mirrored = augmentation.resized_crop(images, plain_views(4, 8, flip=np.ones((4, 1), bool)), 5)
    assert torch.allclose(plain.flip(-1), mirrored, atol=1e-6)


@pytest.mark.parametrize("turn", [0.1, -0.1, 0.37, 0.5, -0.5, 0.0])
def test_hue_agrees_with_torchvision(turn: float) -> None:
    images = torch.rand(5, 3, 9, 9)
    images[0], images[1] = images[0].round(), images[1].mean(0, keepdim=True)  # corners of the cube; gray
    assert torch.allclose(
        augmentation.turn_hue(images, torch.full((5,), turn)), functional.adjust_hue(images, turn), atol=1e-5
    )


@pytest.mark.parametrize("sigma", [0.1, 0.8, 2.0])
def test_blur_agrees_with_torchvision(sigma: float) -> None:
    images = torch.rand(2, 3, 17, 23)
    ours = augmentation.gaussian_blur(images, torch.full((2,), sigma))
    assert torch.allclose(ours, functional.gaussian_blur(images, [9, 9], [sigma, sigma]), atol=1e-6)


def test_blur_of_a_crop_smaller_than_its_kernel_keeps_the_mean_of_a_flat_one() -> None:
    flat = torch.full((1, 3, 4, 4), 0.3)
    assert torch.allclose(augmentation.gaussian_blur(flat, torch.tensor([2.0])), flat, atol=1e-6)


@given(light=st.floats(0.6, 1.1), spread=st.floats(0.6, 1.2), colour=st.floats(0.8, 1.2))
@settings(max_examples=30, deadline=None)
def test_fused_colours_agree_with_torchvision_one_by_one(light: float, spread: float, colour: float) -> None:
    # Where nothing clips: torchvision clips after every step, the fused matrix once.
    images = 0.35 + 0.3 * torch.rand(2, 3, 6, 6, generator=generator())
    full = np.ones((2, 1))
    views = plain_views(2, 6, light=light * full, spread=spread * full, colour=colour * full)
    theirs = functional.adjust_brightness(images, light)
    theirs = functional.adjust_contrast(theirs, spread)
    theirs = functional.adjust_saturation(theirs, colour)
    assert torch.allclose(augmentation.jitter(images, views), theirs, atol=1e-5)


def test_gray_and_solarise_agree_with_torchvision() -> None:
    images = torch.randint(0, 256, (2, 3, 6, 6), generator=generator()).float() / 255
    yes = np.ones((2, 1), bool)
    gray = augmentation.finish(images.clone(), plain_views(2, 6, gray=yes))
    assert torch.allclose(gray, functional.rgb_to_grayscale(images, 3), atol=1e-6)
    inverted = augmentation.finish(images.clone(), plain_views(2, 6, solarize=yes))
    assert torch.allclose(inverted, functional.solarize(images, 128 / 255), atol=1e-6)


def test_no_colours_change_nothing() -> None:
    images = torch.rand(4, 3, 8, 8)
    assert torch.allclose(augmentation.finish(images.clone(), plain_views(4, 8)), images, atol=1e-6)


def test_crops_of_a_decoded_image_are_torchvisions_on_the_same_boxes() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    crops = dataclasses.replace(CropConfig(global_size=24, local_size=12), jitter_probability=0.0, gray=0.0)
    crops = dataclasses.replace(crops, blur=(0.0, 0.0, 0.0), solarize=0.0)
    views = drawn(crops, range(1))[0]
    made = image_crops.crop_image(pixels, views, crops)
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    for i, box in enumerate(image_crops.rounded(views.boxes, (60, 90))):
        size = 24 if i < 2 else 12
        theirs = functional.resized_crop(
            image, *box, size=[size, size], interpolation=InterpolationMode.BICUBIC, antialias=True
        )
        ours = made[0][i] if i < 2 else made[1][i - 2]
        assert torch.equal(ours, theirs.flip(-1) if views.flip[i] else theirs)


def test_both_ways_to_crop_agree_up_to_their_resampling() -> None:
    rng = np.random.default_rng(1)
    small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
    pixels = np.asarray(small.resize((64, 64), Image.Resampling.BICUBIC))
    crops = CropConfig(global_size=32, local_size=16)
    views = drawn(crops, range(1), (64, 64))
    one = image_crops.crop_image(pixels, views[0], crops)
    two = augmentation.multi_crop(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None], views, crops)
    for ours, theirs in zip(one, two, strict=True):
        ours = augmentation.normalize(ours.float() / 255, crops)
        for a, b in zip(ours, theirs, strict=True):
            # Bicubic against linear, whole pixels against parts of them: the same crop all the same.
            assert torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1] > 0.95


def test_a_large_jpeg_is_decoded_at_a_fraction_that_keeps_every_crops_pixels() -> None:
    crops = CropConfig(local_size=98)
    assert image_crops.enough_pixels(crops) == int(98**2 / (0.05 * 0.75))
    buffer = io.BytesIO()
    Image.new("RGB", (2400, 1800), "red").save(buffer, "JPEG")
    decoded = decode(buffer.getvalue(), enough=image_crops.enough_pixels(crops))
    assert isinstance(decoded, Decoded)
    assert decoded.pixels.shape == (450, 600, 3)
    full = decode(buffer.getvalue())
    assert isinstance(full, Decoded)
    assert full.pixels.shape == (1800, 2400, 3)


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


@given(count=st.integers(1, 3000), seed=st.integers(0, 2**40))
@settings(max_examples=60, deadline=None)
def test_a_permutation_meets_every_number_once(count: int, seed: int) -> None:
    found = permuted(np.arange(count), count, (seed, 0))
    assert np.array_equal(np.sort(found), np.arange(count))


def test_a_permutation_mixes_evenly() -> None:
    count, seeds = 64, 400
    where = np.array([permuted(np.arange(count), count, (s,)) for s in range(seeds)])
    # Every image is as often in the first half as in the second, and neighbours do not stay neighbours.
    assert (where[:, :32] < 32).mean() == pytest.approx(0.5, abs=0.02)
    assert where[:, 0].mean() == pytest.approx(31.5, abs=3)
    assert (np.abs(np.diff(where)) == 1).mean() == pytest.approx(2 / count, abs=0.01)


def test_a_position_of_a_huge_index_costs_no_memory() -> None:
    found = permuted(np.array([0, 10**9, 142_109_385]), 1_300_000_000, (0, 0))
    assert len(set(found.tolist())) == 3


def test_processes_share_the_batch_that_one_would_see(batches: PoolBatches) -> None:
    whole, rows = batches(1), len(batches.sampler.rows)
    for world in (2, 4):
        parts = [PoolBatches(batches.pool, batches.recipe, rank=r, world=world)(1) for r in range(world)]
        share = rows // world
        assert torch.equal(torch.cat([p.ids for p in parts]), whole.ids)
        for rank, part in enumerate(parts):
            own = slice(rank * share, (rank + 1) * share)
            for name, of in (("global_crops", 2), ("local_crops", batches.recipe.crops.locals), ("masks", 2)):
                expected = getattr(whole, name).unflatten(0, (of, rows))[:, own].flatten(0, 1)
                assert torch.allclose(getattr(part, name).float(), expected.float(), atol=1e-5), name


def test_a_batch_that_cannot_be_shared_is_refused(batches: PoolBatches) -> None:
    with pytest.raises(ValueError, match="split evenly among 3"):
        PoolBatches(batches.pool, batches.recipe, world=3)


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
    assert len({step_seed(0, 5, s) for s in ("views", "masks", "network")} | {step_seed(0, 6, "views")}) == 4
