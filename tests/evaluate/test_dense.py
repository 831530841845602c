"""Feature maps, heads, losses and windows, each against the plain way; probes learn what patches show."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dinov2_core.errors import UserError
from dinov2_core.evaluate import augment_dense, depth, depth_losses, segmentation, windows
from dinov2_core.evaluate.datasets import depth as depth_sets
from dinov2_core.evaluate.datasets import segmentation as segmentation_sets
from dinov2_core.evaluate.datasets.dense import DepthSet, Pair
from dinov2_core.evaluate.dense_heads import BinsHead, SegmentationHead
from dinov2_core.evaluate.dense_training import Schedule, draw_indices
from dinov2_core.evaluate.dpt import DptHead
from dinov2_core.evaluate.feature_maps import feature_maps, four_layers, join, last_layers
from dinov2_core.model.preprocessing import Preprocessing
from dinov2_core.model.vision_transformer import VisionTransformer, VitConfig
from tests.evaluate import dense_trees


@pytest.fixture(scope="module")
def backbone() -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(VitConfig(dim=32, depth=5, heads=2, patch=8, image_size=32, registers=2)).eval()


PREPROCESSING = Preprocessing(32)
QUICK = Schedule(steps=60, batch=4, lr=1e-2, warmup=5)


def test_maps_are_the_patches_of_each_block_row_by_row(backbone: VisionTransformer) -> None:
    images = torch.randn(2, 3, 24, 40)
    maps = feature_maps(backbone, images, (3, 4))
    for (patches, cls), expected in zip(maps, backbone.last_layers(images, 2), strict=True):
        torch.testing.assert_close(patches.flatten(2).transpose(1, 2), expected.patches)
        torch.testing.assert_close(cls, expected.cls)
    assert maps[0][0].shape == (2, 32, 3, 5)
    assert join(maps, cls=False).shape == (2, 64, 3, 5)
    both = join(maps, cls=True)
    torch.testing.assert_close(both[:, 32:64, 1, 2], maps[0][1])


def test_a_layer_asked_for_twice_comes_twice(backbone: VisionTransformer) -> None:
    maps = feature_maps(backbone, torch.randn(1, 3, 16, 16), (0, 1, 1, 2))
    assert len(maps) == 4
    assert torch.equal(maps[1][0], maps[2][0])


def test_without_the_norm_the_norm_gives_the_normed(backbone: VisionTransformer) -> None:
    images = torch.randn(1, 3, 16, 16)
    plain, normed = (feature_maps(backbone, images, (2,), norm=n)[0][1] for n in (False, True))
    torch.testing.assert_close(backbone.norm(plain), normed)


def test_layers_are_the_references() -> None:
    assert four_layers(12) == (2, 5, 8, 11)
    assert four_layers(24) == (4, 11, 17, 23)
    assert four_layers(40) == (9, 19, 29, 39)
    assert four_layers(8) == (1, 3, 5, 7)
    assert four_layers(3) == (0, 1, 1, 2)
    assert last_layers(12, 4) == (8, 9, 10, 11)
    assert last_layers(3, 4) == (0, 1, 2)


def test_sides_off_the_patch_grid_are_refused(backbone: VisionTransformer) -> None:
    with pytest.raises(UserError, match="30 × 41 pixels are not a multiple of the patch size 8") as error:
        feature_maps(backbone, torch.randn(1, 3, 30, 41), (0,))
    assert "32 × 40" in error.value.todo


def test_depth_is_the_mean_over_bins() -> None:
    head = BinsHead(6, low=0.0, high=10.0, bins=11, enlarge=4).eval()
    features = torch.randn(2, 6, 3, 5)
    # The definition in its own order: enlarge, score, share, expect.
    large = torch.nn.functional.interpolate(features, scale_factor=4, mode="bilinear", align_corners=False)
    shares = head.linear(large).relu() + 0.1
    shares = shares / shares.sum(dim=1, keepdim=True)
    expected = sum(shares[:, k] * k for k in range(11))
    torch.testing.assert_close(head(features)[:, 0], expected, atol=1e-4, rtol=1e-4)


def test_dpt_gives_sixteen_times_the_grid_and_passes_gradients_everywhere() -> None:
    head = DptHead(24, low=0.001, channels=16)
    out = head([(torch.randn(2, 24, 3, 5), torch.randn(2, 24)) for _ in range(4)])
    assert out.shape == (2, 1, 48, 80)
    assert (out >= 0.001).all()
    out.sum().backward()
    unused = [n for n, p in head.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert not unused


def test_sig_loss_by_hand() -> None:
    predicted, truth = torch.tensor([[[[2.0, 2.0, 9.0]]]]), torch.tensor([[[[1.0, 4.0, 0.0]]]])
    g = np.log(np.array([2.001 / 1.001, 2.001 / 4.001]))
    expected = np.sqrt(g.var(ddof=1) + 0.15 * g.mean() ** 2)
    assert depth_losses.sig_loss(predicted, truth, truth > 0).item() == pytest.approx(expected, rel=1e-5)


def test_gradient_loss_by_hand() -> None:
    predicted = torch.tensor([[[[1.0, 2.0], [1.0, 1.0]]]])
    truth = torch.tensor([[[[1.0, 1.0], [1.0, 0.0]]]])
    # One scale: across 1→2 in the first row and down 1→1 in the first column; the unknown pixel's pairs do not count.
    expected = np.log(2.001 / 1.001) / 3
    assert depth_losses.gradient_loss(predicted, truth, truth > 0, scales=1).item() == pytest.approx(expected, rel=1e-5)
    same = depth_losses.gradient_loss(3 * predicted, 3 * predicted, truth > 0).item()
    assert same == pytest.approx(0, abs=1e-6)


def test_losses_of_nothing_known_are_zero_and_differentiable() -> None:
    predicted = torch.rand(1, 1, 4, 4, requires_grad=True)
    known = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    total = depth_losses.sig_loss(predicted, predicted.detach(), known)
    total = total + depth_losses.gradient_loss(predicted, predicted.detach(), known)
    total.backward()
    assert total.item() == 0


@pytest.mark.parametrize(("length", "window", "stride"), [(100, 32, 20), (32, 32, 20), (10, 32, 20), (101, 32, 32)])
def test_windows_cover_everything_and_stay_inside(length: int, window: int, stride: int) -> None:
    found = windows.starts(length, window, stride)
    covered = {i for s in found for i in range(s, min(s + window, length))}
    assert covered == set(range(length))
    assert all(s + window <= max(length, window) for s in found)


def test_sliding_averages_where_windows_overlap() -> None:
    image = torch.rand(1, 3, 50, 70)

    def rows(crop: torch.Tensor) -> torch.Tensor:
        return crop.mean(dim=1, keepdim=True)

    # A prediction of single pixels is the same in every window.
    torch.testing.assert_close(windows.slide(rows, image, window=32, stride=20, patch=8), rows(image))

    def place(crop: torch.Tensor) -> torch.Tensor:
        return torch.arange(crop.shape[-1]).float().expand(len(crop), 1, crop.shape[-2], -1)

    # Columns 8 to 31 of a 40-wide picture lie in windows that begin at 0 and at 8.
    found = windows.slide(place, torch.rand(1, 3, 8, 40), window=32, stride=24, patch=8)[0, 0, 0]
    assert found[4] == 4
    assert found[20] == (20 + 12) / 2
    assert found[39] == 31


def test_several_scales_and_mirrors_average_shares() -> None:
    image = torch.rand(1, 3, 33, 47)
    shares = windows.multi_scale(
        lambda x: torch.cat([x, -x], dim=1), image, size=32, window=32, stride=16, patch=8, scales=(0.5, 1.0), flip=True
    )
    assert shares.shape == (1, 6, 33, 47)
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(1, 33, 47))


def test_mirroring_a_symmetric_predictor_changes_nothing() -> None:
    image = torch.rand(1, 3, 32, 48)
    options = {"size": 32, "window": 32, "stride": 16, "patch": 8}
    one, two = (windows.multi_scale(lambda x: x, image, flip=f, **options) for f in (False, True))  # type: ignore[arg-type]
    torch.testing.assert_close(one, two)


def test_batches_are_permutations_and_the_rate_warms_up_and_decays() -> None:
    schedule = Schedule(steps=6, batch=4, warmup=2, lr=1.0)
    drawn = [i for batch in draw_indices(8, schedule) for i in batch]
    assert sorted(drawn[:8]) == sorted(drawn[8:16]) == list(range(8))
    assert [schedule.rate(s) for s in range(6)] == pytest.approx([0.5, 1.0, 1.0, 0.75, 0.5, 0.25])


def test_a_picture_and_its_target_are_cut_alike() -> None:
    rng = np.random.default_rng(0)
    target = (np.arange(40 * 60) % 251).reshape(40, 60).astype(np.uint8)
    target = np.kron(target[:10, :15], np.ones((4, 4), np.uint8))
    pixels = np.repeat(target[..., None], 3, axis=2)
    image, cut = augment_dense.cropped(pixels, target, 40, rng, fill=255, scales=(1.0, 1.0))
    assert (image[0] == cut).all()
    image, cut = augment_dense.squared(pixels, target, 20)
    assert image.shape == (3, 20, 20)
    assert cut.shape == (20, 20)
    small = augment_dense.cropped(pixels, target, 80, rng, fill=255, scales=(0.5, 0.5))[1]
    assert (small[40:] == 255).all()


@pytest.mark.parametrize("augment", [False, True])
def test_a_linear_head_learns_to_segment(tmp_path: Path, backbone: VisionTransformer, augment: bool) -> None:
    data = segmentation_sets.folder(dense_trees.masks(tmp_path, 6))
    settings = replace(segmentation.LINEAR, size=48, augment=augment, schedule=QUICK)
    counts = segmentation.score(segmentation.train_segmenter(backbone, PREPROCESSING, data, settings), data)
    assert len(counts.rows) == 6
    # Of 8-pixel patches; always answering "ground" gives 0.38.
    assert counts.mean_iou() > 0.7


def test_a_class_of_the_test_split_that_train_does_not_have_is_named_before_anything_is_trained(
    tmp_path: Path, backbone: VisionTransformer
) -> None:
    data = segmentation_sets.folder(dense_trees.masks(tmp_path, 3))
    for pair in data.train:
        dense_trees.write(pair.target, np.zeros_like(data.classes_of(pair)))
    with pytest.raises(UserError, match=f"class '{data.classes[1]}' has no pixel in the train split") as caught:
        segmentation.train_segmenter(backbone, PREPROCESSING, data, replace(segmentation.LINEAR, size=48))
    assert caught.value.where in {str(pair.target) for pair in data.test}


def test_a_class_that_neither_split_has_is_no_fault(tmp_path: Path) -> None:
    data = segmentation_sets.folder(dense_trees.masks(tmp_path, 3))
    segmentation.check_classes(replace(data, classes=(*data.classes, "never drawn")))


def test_more_layers_and_scales_run_and_repeat(tmp_path: Path, backbone: VisionTransformer) -> None:
    data = segmentation_sets.folder(dense_trees.masks(tmp_path, 3))
    settings = replace(
        segmentation.MULTI_SCALE, size=48, scales=(1.0, 1.5), augment=False, schedule=replace(QUICK, steps=10)
    )
    scores = [
        segmentation.score(segmentation.train_segmenter(backbone, PREPROCESSING, data, settings), data).mean_iou()
        for _ in range(2)
    ]
    assert scores[0] == scores[1]


@pytest.mark.parametrize("kind", ["linear", "linear4", "dpt"])
def test_depth_heads_learn_a_slope(tmp_path: Path, backbone: VisionTransformer, kind: depth.Kind) -> None:
    rng = np.random.default_rng(0)
    pairs, truth = [], {}
    for i in range(8):
        pixels, metres = dense_trees.slope(rng, 32, 48)
        image = dense_trees.write(tmp_path / f"{i}.png", pixels)
        truth[image] = metres.astype(np.float32)
        pairs.append(Pair(image, image))
    data = DepthSet("slopes", tuple(pairs[:5]), tuple(pairs[5:]), truth.__getitem__, 0.001, 10.0)
    schedule = replace(QUICK, steps=80, lr=3e-3 if kind == "dpt" else 1e-2)
    settings = depth.DepthSettings(kind, 32, augment=False, channels=16, schedule=schedule)
    estimator = depth.train_depth(backbone, PREPROCESSING, data, settings)
    scores = depth.score(estimator, data)
    # Always answering the mean, 3 m, is off by 1.18 m.
    assert scores["rmse"].mean() < 0.8
    assert scores["delta1"].shape == (3,)
    quick = replace(settings, augment=True, schedule=replace(QUICK, steps=2))
    assert np.isfinite(depth.score(depth.train_depth(backbone, PREPROCESSING, data, quick), data)["rmse"]).all()


def test_the_segmentation_head_is_batch_norm_and_one_linear_layer() -> None:
    assert [n for n, _ in SegmentationHead(4, 2).named_parameters()] == [
        "norm.weight",
        "norm.bias",
        "linear.weight",
        "linear.bias",
    ]


def test_a_depth_head_that_has_died_is_an_error_and_no_score(
    tmp_path: Path, backbone: VisionTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dead(dim: int, *, low: float, channels: int) -> DptHead:
        made = DptHead(dim, low=low, channels=channels)
        torch.nn.init.constant_(made.depth[-1].bias, -100.0)  # type: ignore[arg-type]
        return made

    monkeypatch.setattr(depth, "DptHead", dead)
    data = depth_sets.visp_castle(dense_trees.castle(tmp_path, 5))
    settings = depth.DepthSettings(kind="dpt", size=16, augment=False, channels=8, schedule=replace(QUICK, steps=2))
    with pytest.raises(UserError, match="the dpt head gives the smallest depth everywhere") as error:
        depth.train_depth(backbone, PREPROCESSING, data, settings)
    assert "lower the schedule's lr" in error.value.todo
