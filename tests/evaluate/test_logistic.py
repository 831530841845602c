"""The whole path against scikit-learn's single fits, for one label an image and for several."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score

from dinov2_core.errors import UserError
from dinov2_core.evaluate.cache import FeatureCache
from dinov2_core.evaluate.classification_scores import mean_average_precision
from dinov2_core.evaluate.datasets import folder
from dinov2_core.evaluate.datasets.labelled import LabelledSet
from dinov2_core.evaluate.logistic import PAPER_C, hold_out, path
from dinov2_core.evaluate.logistic_protocol import LogisticOptions, run_logistic
from dinov2_core.evaluate.protocol import Context
from tests.evaluate.test_evaluation import model, tree


def data(rows: int = 300, dim: int = 12, classes: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=rows)
    centers = np.random.default_rng(1).normal(size=(classes, dim))
    mixed = np.random.default_rng(2).normal(size=(dim, dim)) * np.logspace(0, -2, dim)
    return ((centers[labels] + rng.normal(size=(rows, dim))) @ mixed + 3).astype(np.float32), labels


@pytest.mark.parametrize("c", [1e-4, 1e-2, 1.0])
def test_probabilities_agree_with_scikit_learn(c: float) -> None:
    features, labels = data()
    ours = path(features, labels, (1e-5, c), tol=1e-6)[1]
    theirs = LogisticRegression(C=c, tol=1e-10, max_iter=20_000).fit(features.astype(np.float64), labels)
    wanted = theirs.decision_function(features)
    found = ours.scores(features)
    found -= found.mean(axis=1, keepdims=True)
    assert np.allclose(found, wanted - wanted.mean(axis=1, keepdims=True), atol=0.02 * np.abs(wanted).max())
    assert (found.argmax(1) == wanted.argmax(1)).mean() > 0.995


def test_wide_features_and_coarse_tolerance_agree_with_scikit_learn() -> None:
    features, labels = data(400, 1100, 3)
    theirs = LogisticRegression(C=1e-2, tol=1e-8, max_iter=5000).fit(features.astype(np.float64), labels)
    wanted = theirs.decision_function(features)
    coarse, fine = (path(features, labels, (1e-3, 1e-2), tol=tol)[1] for tol in (1e-4, 1e-6))
    found = fine.scores(features)
    assert np.allclose(found - found.mean(axis=1, keepdims=True), wanted, atol=0.03 * np.abs(wanted).max())
    # Margins of classes that can be told apart without error go on growing; who is in which class does not change.
    assert (coarse.predict(features) == wanted.argmax(axis=1)).mean() > 0.99


def test_on_classes_that_overlap_the_default_tolerance_is_as_accurate_as_full_convergence() -> None:
    train, labels = data(1000, 20, 5)
    test, truth = data(5000, 20, 5, seed=3)
    coarse, fine = (path(train, labels, PAPER_C[::4], tol=tol) for tol in (1e-4, 1e-6))
    right = [[(s.predict(test) == truth).mean() for s in found] for found in (coarse, fine)]
    assert np.abs(np.subtract(*right)).max() <= 0.002


def test_several_labels_an_image_are_independent_fits_over_what_is_scored() -> None:
    features, labels = data()
    table = np.eye(4, dtype=np.int64)[labels]
    table[:50, 2] = -1
    ours = path(features, table, (0.1,), classes=4, tol=1e-6)[0].scores(features)
    theirs = LogisticRegression(C=0.1, tol=1e-10, max_iter=20_000).fit(features[50:].astype(float), table[50:, 2])
    assert np.allclose(ours[:, 2], theirs.decision_function(features.astype(float)), atol=0.02)


def test_the_path_does_not_depend_on_the_order_and_covers_the_papers_range() -> None:
    features, labels = data(60)
    one, two = path(features, labels, (1.0, 0.01)), path(features, labels, (0.01, 1.0))
    assert np.array_equal(one[0].weight, two[1].weight)
    assert len(PAPER_C) == 45
    assert (PAPER_C[0], PAPER_C[-1]) == (1e-6, 1e5)


def test_features_without_variance_or_fewer_images_than_dimensions_are_no_trouble() -> None:
    features, labels = data(20, 40, 2)
    features[:, 3] = 7
    solution = path(features, labels, (1.0,))[0]
    assert np.isfinite(solution.weight).all()
    assert solution.weight[3] == pytest.approx(0, abs=1e-6)


def test_features_that_are_not_finite_and_lengths_that_differ_are_errors() -> None:
    features, labels = data(20)
    with pytest.raises(UserError, match="20 features and 19 labels"):
        path(features, labels[:-1])
    features[3, 1] = np.nan
    with pytest.raises(UserError, match="not finite"):
        path(features, labels)


def test_the_hold_out_leaves_an_image_of_every_class() -> None:
    labels = np.r_[np.zeros(50, np.int64), 1]
    for seed in range(60):
        kept, held = hold_out(labels, seed=seed)
        assert 1 in labels[kept]
        assert sorted([*kept, *held]) == list(range(51))


@pytest.mark.parametrize("wide", [40, 1100])
def test_average_precision_of_several_labels_ranks_by_scores_as_scikit_learns_does(wide: int) -> None:
    rng = np.random.default_rng(0)
    train, test = (rng.normal(size=(1050, wide)).astype(np.float32) for _ in range(2))
    mix = rng.normal(size=(wide, 3)) * 3 / wide**0.5
    labels, truth = ((x @ mix + rng.normal(size=(1050, 3)) > 1).astype(np.int64) for x in (train, test))
    labels[:40, 1] = truth[:30, 2] = -1
    scores = path(train, labels, (1e-3, 1e-2), classes=3, tol=1e-6)[-1].scores(test)
    theirs, marks = [], truth == 1
    for k in range(3):
        known, seen = labels[:, k] >= 0, truth[:, k] >= 0
        fit = LogisticRegression(C=1e-2, tol=1e-8, max_iter=5000).fit(train[known].astype(float), labels[known, k])
        theirs.append(average_precision_score(marks[seen, k], fit.decision_function(test[seen].astype(float))))
    assert mean_average_precision(scores, truth) == pytest.approx(np.mean(theirs), abs=2e-3)
    # Answers instead of scores would tie all that is called yes.
    answers = np.eye(3)[scores.argmax(axis=1)]
    assert mean_average_precision(answers, truth) < np.mean(theirs) - 0.05


def test_the_protocol_on_voc_ranks_by_scores(tmp_path: Path) -> None:
    labelled = folder.load(tree(tmp_path / "set", count=6))
    table = np.eye(2, dtype=np.int64)
    train, test = (dataclasses.replace(s, labels=table[s.labels]) for s in (labelled.train, labelled.test))
    data = LabelledSet("voc2007", labelled.classes, train, test, "mAP")
    found = run_logistic(model(), data, LogisticOptions(), Context(FeatureCache(tmp_path / "c")))
    assert found.named("mAP").value == 1.0
    assert not found.figures


def test_one_image_a_class_leaves_nothing_to_choose_by() -> None:
    with pytest.raises(UserError, match="no image can be held out"):
        hold_out(np.arange(5))
    for seed in range(9):
        kept, held = hold_out(np.array([0, 1, 2, 3, 3]), seed=seed)
        assert held.tolist() in ([3], [4])
        assert len(kept) == 4
