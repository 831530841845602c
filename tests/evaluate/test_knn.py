"""Neighbours, votes and few-shot draws against scikit-learn and the definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dinov2_core.errors import UserError
from dinov2_core.evaluate.knn import Nearest, few_shot, merged, nearest, vote, votes


def random(rows: int, dim: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 3000), k=st.integers(1, 40), seed=st.integers(0, 99))
def test_the_neighbours_are_those_of_a_full_sort(rows: int, k: int, seed: int) -> None:
    gallery, queries = random(rows, 6, seed), random(5, 6, seed + 1)
    unit = torch.nn.functional.normalize
    plain = (unit(queries, dim=1) @ unit(gallery, dim=1).T).sort(dim=1, descending=True).values[:, :k]
    found = nearest(gallery, queries, k)
    assert torch.allclose(found.similarity, plain, atol=1e-6)
    again = (unit(queries, dim=1)[:, None] * unit(gallery, dim=1)[found.index]).sum(dim=2)
    assert torch.allclose(again, found.similarity, atol=1e-5)


def test_memory_changes_no_result() -> None:
    gallery, queries = random(300, 8, 0), random(41, 8, 1)
    one, two = nearest(gallery, queries, 7, memory=1), nearest(gallery, queries, 7)
    assert torch.equal(one.index, two.index)
    assert torch.allclose(one.similarity, two.similarity, atol=1e-6)


def test_a_gallery_in_shards_has_the_same_neighbours() -> None:
    gallery, queries = random(500, 8, 0), random(20, 8, 1)
    parts = [nearest(gallery[:200], queries, 9), nearest(gallery[200:], queries, 9)]
    assert torch.equal(merged(parts, [0, 200], 9).index, nearest(gallery, queries, 9).index)


def test_truncating_the_softmax_over_200_gives_the_same_classes() -> None:
    found = nearest(random(400, 8, 0), random(60, 8, 1), 200)
    labels = torch.randint(5, (400,), generator=torch.Generator().manual_seed(2))
    for k in (10, 20, 100, 200):
        weight = (found.similarity / 0.07).softmax(dim=1)[:, :k]
        votes = torch.zeros(60, 5).scatter_add_(1, labels[found.index[:, :k]], weight)
        assert (votes.argmax(dim=1).numpy() == vote(found, labels, k)).all()


def test_equal_votes_go_to_the_smallest_class() -> None:
    found = Nearest(torch.ones(1, 2), torch.tensor([[0, 1]]))
    assert vote(found, torch.tensor([3, 1]), 2).tolist() == [1]


def test_few_shot_draws_that_many_of_each_class_and_other_ones_each_time() -> None:
    labels = torch.arange(3).repeat(10)
    draws = few_shot(labels, 4, tries=3)
    assert all(np.bincount(labels[rows]).tolist() == [4, 4, 4] for rows in draws)
    assert not torch.equal(draws[0], draws[1])
    with pytest.raises(UserError, match="class 0 has 10 images, 11"):
        few_shot(labels, 11, tries=1)


def test_other_widths_are_an_error() -> None:
    with pytest.raises(UserError, match="width 8 and 6"):
        nearest(random(3, 8, 0), random(2, 6, 0), 1)


def test_shares_of_the_vote_are_scikit_learns_probabilities() -> None:
    from sklearn.neighbors import KNeighborsClassifier

    gallery, queries = (torch.nn.functional.normalize(random(n, 5, n), dim=1) for n in (60, 20))
    labels = torch.arange(60) % 4
    shares = votes(nearest(gallery, queries, 10), labels, 10, temperature=0.2)
    # On unit vectors the cosine is 1 - d² / 2.
    plain = KNeighborsClassifier(10, weights=lambda d: np.exp((1 - d**2 / 2) / 0.2)).fit(gallery, labels)
    assert np.allclose(shares, plain.predict_proba(queries), atol=1e-5)
