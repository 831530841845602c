"""AUROC and FPR95 against scikit-learn, ties included; the k-NN score by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, roc_curve

from dinov2_core.evaluate import ood

few = st.lists(st.integers(0, 6), min_size=1, max_size=40)


@settings(max_examples=100, deadline=None)
@given(few, few)
def test_equal_to_scikit_learn_with_ties(inside: list[int], outside: list[int]) -> None:
    truth, scores = [1] * len(inside) + [0] * len(outside), inside + outside
    assert ood.auroc(inside, outside) == pytest.approx(roc_auc_score(truth, scores))
    fpr, tpr, _ = roc_curve(truth, scores, drop_intermediate=False)
    assert ood.fpr_at_tpr(inside, outside) == pytest.approx(fpr[np.argmax(tpr >= 0.95 - 1e-9)])


def test_the_score_is_the_cosine_with_the_kth_neighbour() -> None:
    train = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    query = torch.tensor([[2.0, 0.0]])
    assert ood.knn_scores(train, query, k=1)[0] == pytest.approx(1)
    assert ood.knn_scores(train, query, k=2)[0] == pytest.approx(0)
    assert ood.knn_scores(train, query, k=9)[0] == pytest.approx(-1)


def test_a_far_cluster_is_told_apart_and_blocks_change_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    centre = torch.zeros(16).index_fill_(0, torch.tensor([0]), 6.0)
    train, inside = (centre + torch.randn(n, 16, generator=generator) for n in (200, 60))
    outside = -centre + torch.randn(60, 16, generator=generator)
    a, b = ood.knn_scores(train, inside, k=10, block=7), ood.knn_scores(train, outside, k=10)
    np.testing.assert_allclose(a, ood.knn_scores(train, inside, k=10), atol=1e-6)
    assert ood.auroc(a, b) > 0.99
    assert ood.fpr_at_tpr(a, b) < 0.05


def test_no_scores_and_not_a_number_are_refused() -> None:
    with pytest.raises(ValueError, match="both kinds"):
        ood.auroc([], [1.0])
    with pytest.raises(ValueError, match="not finite"):
        ood.auroc([np.nan], [1.0])
