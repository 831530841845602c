"""Who becomes champion: above the untrained model beyond doubt, and no worse than the one that is."""

from __future__ import annotations

from typing import Any

import pytest

from assets.promotion import decide


def row(model: str, value: float, low: float, high: float, protocol: str = "knn") -> dict[str, Any]:
    return {
        "dataset": "cifar10",
        "protocol": protocol,
        "model": model,
        "metric": "top1",
        "value": value,
        "low": low,
        "high": high,
    }


GOOD = [row("trained", 0.40, 0.38, 0.42), row("trained - untrained", 0.08, 0.05, 0.11)]


def test_the_first_good_model_becomes_champion() -> None:
    verdict = decide(GOOD, {})
    assert verdict.promote
    assert "+0.0800" in verdict.reason


@pytest.mark.parametrize("low", [0.0, -0.01, float("nan")])
def test_a_gain_that_may_be_chance_is_refused_with_its_numbers(low: float) -> None:
    verdict = decide([GOOD[0], row("trained - untrained", 0.02, low, 0.05)], {})
    assert not verdict.promote
    assert "not above the untrained model: difference +0.0200" in verdict.reason


def test_without_the_comparison_nothing_is_promoted() -> None:
    assert not decide([GOOD[0]], {}).promote


def test_a_metric_that_fell_beyond_its_interval_is_refused() -> None:
    verdict = decide(GOOD, {"cifar10.knn.trained.top1": 0.45})
    assert not verdict.promote
    assert "fell from the champion's 0.4500 to 0.4000 (at most 0.4200)" in verdict.reason


def test_a_metric_within_its_interval_of_the_champions_passes() -> None:
    assert decide(GOOD, {"cifar10.knn.trained.top1": 0.41}).promote
