"""Average precision with junk, GAP: hand-computed cases, and transcriptions of the published definitions."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from dinov2_core.evaluate import retrieval

TRUTH = {"easy": [0], "hard": [3], "junk": [1]}


def test_trapezoid_ap_by_hand() -> None:
    # Positives at ranks 0 and 2: (1 + 1)/2 · 1/2 + (1/2 + 2/3)/2 · 1/2.
    assert retrieval.trapezoid_ap(np.array([0, 2]), 2) == pytest.approx(0.5 + (0.5 + 2 / 3) / 4)
    # One positive at rank 1: (0/1 + 1/2) / 2.
    assert retrieval.trapezoid_ap(np.array([1]), 1) == pytest.approx(0.25)
    assert retrieval.trapezoid_ap(np.array([0, 1, 2]), 3) == 1.0


def test_junk_leaves_the_list_and_setups_choose_what_is_junk() -> None:
    order = np.array([[1, 0, 2, 3]])
    # Medium: junk 1 goes, positives 0 and 3 come at ranks 0 and 2.
    assert retrieval.revisited_ap(order, [TRUTH], "medium")[0] == pytest.approx(0.5 + (0.5 + 2 / 3) / 4)
    # Hard: 1 and the easy 0 go, the positive comes at rank 1 after the negative 2.
    assert retrieval.revisited_ap(order, [TRUTH], "hard")[0] == pytest.approx(0.25)
    # Easy: 1 and 3 go, the positive is first.
    assert retrieval.revisited_ap(order, [TRUTH], "easy")[0] == 1.0


def test_a_query_without_positives_is_left_out_of_the_mean() -> None:
    order = np.array([[0, 1], [0, 1]])
    truth = [{"easy": [0], "hard": [], "junk": []}, {"easy": [], "hard": [0], "junk": []}]
    scores = retrieval.revisited_ap(order, truth, "hard")
    assert np.isnan(scores[0])
    assert np.nanmean(scores) == 1.0


def _walk(order: list[int], positives: set[int], junk: set[int]) -> float:
    """The Oxford buildings evaluation as published: walk down the list, add trapezoids of recall and precision."""
    old_recall, old_precision, area = 0.0, 1.0, 0.0
    hits = seen = 0
    for image in order:
        if image in junk:
            continue
        hits += image in positives
        recall, precision = hits / len(positives), hits / (seen + 1)
        area += (recall - old_recall) * (old_precision + precision) / 2
        old_recall, old_precision = recall, precision
        seen += 1
    return area


@pytest.mark.parametrize("seed", range(5))
def test_revisited_ap_equals_the_walk_down_the_list(seed: int) -> None:
    rng = np.random.default_rng(seed)
    order = np.stack([rng.permutation(60) for _ in range(8)])
    truth = []
    for _ in range(8):
        images = rng.permutation(60)
        truth.append({"easy": images[:4], "hard": images[4:9], "junk": images[9:15]})
    for setup, (good, bad) in retrieval.SETUPS.items():
        ours = retrieval.revisited_ap(order, truth, setup)  # type: ignore[arg-type]
        for row, lists, score in zip(order, truth, ours, strict=True):
            positives = {int(i) for name in good for i in lists[name]}
            assert score == pytest.approx(_walk(row.tolist(), positives, {int(i) for n in bad for i in lists[n]}))


def test_average_precision_equals_scikit_learns() -> None:
    generator = torch.Generator().manual_seed(0)
    gallery, queries = torch.randn(50, 8, generator=generator), torch.randn(6, 8, generator=generator)
    positives = [[i, i + 10, i + 20] for i in range(6)]
    similarity = torch.nn.functional.normalize(queries, dim=1) @ torch.nn.functional.normalize(gallery, dim=1).T
    ours = retrieval.average_precision(retrieval.rank(gallery, queries), positives)
    for row, good, score in zip(similarity.numpy(), positives, ours, strict=True):
        assert score == pytest.approx(average_precision_score(np.isin(np.arange(50), good), row))


def test_gap_by_hand() -> None:
    # By confidence: right, wrong (a distractor), right, wrong. Three queries have an answer.
    predicted, truth = np.array([5, 7, 6, 5]), np.array([5, -1, 6, 4])
    confidence = np.array([0.9, 0.8, 0.7, 0.1])
    assert retrieval.gap(predicted, confidence, truth) == pytest.approx((1 + 2 / 3) / 3)
    scores = retrieval.met_scores(predicted, confidence, truth)
    assert scores.gap_minus == pytest.approx((1 + 1) / 3)
    assert scores.accuracy == pytest.approx(2 / 3)


def test_an_answer_to_a_distractor_is_never_right() -> None:
    assert retrieval.gap(np.array([-1, 3]), np.array([0.9, 0.1]), np.array([-1, 3])) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="no query has an answer"):
        retrieval.gap(np.array([1]), np.array([0.5]), np.array([-1]))


def test_nearest_answer_does_not_depend_on_the_block() -> None:
    generator = torch.Generator().manual_seed(1)
    gallery, queries = torch.randn(40, 8, generator=generator), torch.randn(9, 8, generator=generator)
    labels = torch.arange(40) % 7
    one = retrieval.nearest_answer(gallery, labels, queries, block=2)
    two = retrieval.nearest_answer(gallery, labels, queries)
    assert (one[0] == two[0]).all()
    np.testing.assert_allclose(one[1], two[1], atol=1e-6)
    assert retrieval.nearest_answer(gallery, labels, gallery)[0].tolist() == labels.tolist()


def test_five_thousand_images_and_seventy_queries_take_less_than_a_second() -> None:
    generator = torch.Generator().manual_seed(0)
    gallery, queries = torch.randn(5000, 384, generator=generator), torch.randn(70, 384, generator=generator)
    truth = [
        {"easy": range(i, i + 50), "hard": range(1000 + i, 1060 + i), "junk": range(2000, 2100)} for i in range(70)
    ]
    started = time.perf_counter()
    order = retrieval.rank(gallery, queries)
    for setup in retrieval.SETUPS:
        retrieval.revisited_ap(order, truth, setup)  # type: ignore[arg-type]
    assert time.perf_counter() - started < 1.0
