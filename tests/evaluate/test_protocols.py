"""k-NN, linear probe and intervals against independent implementations and known answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from dinov2_core.evaluate.bootstrap import mean_interval, paired_difference
from dinov2_core.evaluate.features import extract, pixel_features
from dinov2_core.evaluate.knn import knn_predict
from dinov2_core.evaluate.linear import linear_probe
from dinov2_core.model.preprocessing import Preprocessing
from dinov2_core.model.vision_transformer import VisionTransformer, VitConfig


def blobs(count: int, classes: int, spread: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    centers = np.random.default_rng(0).normal(size=(classes, 16))
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=count)
    return (centers[labels] + spread * rng.normal(size=(count, 16))).astype(np.float32), labels


@pytest.mark.parametrize("k", [1, 5, 20])
def test_knn_agrees_with_scikit_learn(k: int) -> None:
    (train, labels), (test, _) = blobs(200, 5, 1.5, 1), blobs(100, 5, 1.5, 2)
    theirs = KNeighborsClassifier(
        k, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / 0.07)
    ).fit(train, labels)
    ours = knn_predict(torch.from_numpy(train), torch.from_numpy(labels), torch.from_numpy(test), k=k)
    assert (ours.numpy() == theirs.predict(test)).mean() == 1.0


def test_knn_blocks_change_nothing() -> None:
    (train, labels), (test, _) = blobs(50, 3, 1.0, 1), blobs(33, 3, 1.0, 2)
    args = [torch.from_numpy(x) for x in (train, labels, test)]
    assert torch.equal(knn_predict(*args, memory=7), knn_predict(*args))


def test_knn_with_fewer_images_than_k_and_a_tiny_temperature() -> None:
    gallery, labels = torch.eye(3), torch.tensor([0, 1, 4])
    assert knn_predict(gallery, labels, torch.eye(3), k=20, temperature=1e-4).tolist() == [0, 1, 4]


def test_knn_without_gallery_or_queries() -> None:
    with pytest.raises(ValueError, match="empty gallery"):
        knn_predict(torch.empty(0, 2), torch.empty(0, dtype=torch.int64), torch.ones(1, 2))
    assert knn_predict(torch.ones(1, 2), torch.zeros(1, dtype=torch.int64), torch.empty(0, 2)).shape == (0,)


def test_linear_probe_separates_what_is_separable() -> None:
    (train, labels), (test, truth) = blobs(300, 4, 0.3, 1), blobs(200, 4, 0.3, 2)
    probe = linear_probe(train, labels, test)
    assert (probe.predictions == truth).mean() > 0.99
    assert probe.holdout_accuracy > 0.95


def test_linear_probe_never_looks_at_test_to_choose() -> None:
    (train, labels), (test, _) = blobs(100, 4, 2.0, 1), blobs(50, 4, 2.0, 2)
    one, two = linear_probe(train, labels, test), linear_probe(train, labels, test[:1])
    assert (one.c, one.holdout_accuracy) == (two.c, two.holdout_accuracy)


def test_interval_of_a_proportion_is_the_binomial_one() -> None:
    scores = np.r_[np.ones(600), np.zeros(400)]
    interval = mean_interval(scores, draws=5000)
    half = 1.96 * np.sqrt(0.6 * 0.4 / 1000)
    assert interval.value == 0.6
    assert interval.low == pytest.approx(0.6 - half, abs=0.003)
    assert interval.high == pytest.approx(0.6 + half, abs=0.003)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        interval = mean_interval(rng.random(300) < 0.3, draws=500, seed=trial)
        hits += interval.low <= 0.3 <= interval.high
    assert 180 <= hits <= 199


def test_pairing_narrows_the_difference() -> None:
    rng = np.random.default_rng(0)
    one = rng.random(500) < 0.5
    two = one.copy()
    two[:10] = ~two[:10]
    paired = paired_difference(one, two)
    unpaired = mean_interval(one)
    assert paired.high - paired.low < 0.5 * (unpaired.high - unpaired.low)
    with pytest.raises(ValueError, match="not pairs"):
        paired_difference(one, two[:-1])


def test_pixels_are_centred_by_train() -> None:
    train = torch.randint(0, 256, (20, 3, 4, 4), dtype=torch.uint8)
    one, two = pixel_features(train, train[:5])
    assert one.shape == (20, 48)
    assert torch.allclose(one.mean(0), torch.zeros(48), atol=1e-6)
    assert torch.equal(one[:5], two)


def test_features_do_not_depend_on_the_batch() -> None:
    torch.manual_seed(0)
    backbone = VisionTransformer(VitConfig(dim=16, depth=1, heads=2, patch=4, image_size=16)).eval()
    images = torch.randint(0, 256, (9, 3, 16, 16), dtype=torch.uint8)
    one = extract(backbone, images, Preprocessing(16), batch=2)
    assert torch.allclose(one, extract(backbone, images, Preprocessing(16), batch=100), atol=1e-5)
    assert extract(backbone, images[:0], Preprocessing(16)).shape == (0, 16)
