"""Who becomes champion: above the untrained model, better where it is wanted, worse nowhere, clean data behind it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from assets.promotion import Evidence, decide, scores
from assets.registered_model import _scores
from dinov2_core.errors import UserError

CLEAN = Evidence(leaks={"identical": 0, "close": 0})


def row(
    model: str, value: float, low: float, high: float, protocol: str = "knn", metric: str = "top1"
) -> dict[str, Any]:
    return {
        "dataset": "cifar10",
        "protocol": protocol,
        "model": model,
        "metric": metric,
        "value": value,
        "low": low,
        "high": high,
        "count": 1000,
    }


GAIN = row("trained - untrained", 0.08, 0.05, 0.11)
GOOD = [row("trained", 0.40, 0.38, 0.42), row("trained", 0.60, 0.57, 0.63, "linear"), GAIN]


def champion(knn: float = 0.39, linear: float = 0.60) -> dict[str, float]:
    return scores([row("trained", knn, 0, 1), row("trained", linear, 0, 1, "linear")])


def test_the_first_good_model_becomes_champion() -> None:
    verdict = decide(GOOD, {}, CLEAN)
    assert verdict.promote
    assert "+0.0800" in verdict.reason


def test_a_better_model_becomes_champion_and_the_verdict_says_by_how_much() -> None:
    verdict = decide(GOOD, champion(), CLEAN)
    assert verdict.promote
    assert "cifar10.knn.trained.top1 0.3900 → 0.4000" in verdict.reason


@pytest.mark.parametrize("low", [0.0, -0.01, float("nan")])
def test_a_gain_that_may_be_chance_is_refused_with_its_numbers(low: float) -> None:
    verdict = decide([GOOD[0], row("trained - untrained", 0.02, low, 0.05)], {}, CLEAN)
    assert not verdict.promote
    assert "not above the untrained model by more than 0: difference +0.0200" in verdict.reason


def test_the_least_gain_is_a_setting() -> None:
    assert not decide(GOOD, {}, CLEAN, minimum_gain=0.06).promote
    assert decide(GOOD, {}, CLEAN, minimum_gain=0.04).promote


def test_without_the_comparison_nothing_is_promoted() -> None:
    assert not decide([GOOD[0]], {}, CLEAN).promote


def test_a_score_that_fell_beyond_its_interval_is_refused() -> None:
    verdict = decide(GOOD, champion(linear=0.65), CLEAN)
    assert not verdict.promote
    assert verdict.refusals == (
        "fall: cifar10.linear.trained.top1 went from the champion's 0.6500 to 0.6000 (at most 0.6300)",
    )


def test_a_score_within_its_interval_of_the_champions_passes() -> None:
    assert decide(GOOD, champion(linear=0.62), CLEAN).promote


@pytest.mark.parametrize(("knn", "promoted"), [(0.3999, True), (0.40, False), (0.41, False)])
def test_the_wanted_score_must_rise(knn: float, promoted: bool) -> None:
    verdict = decide(GOOD, champion(knn=knn), CLEAN)
    assert verdict.promote == promoted
    if not promoted:
        assert verdict.refusals == (
            f"rise: cifar10.knn.trained.top1 is 0.4000, not better than the champion's {knn:.4f}",
        )


def test_another_protocol_can_be_wanted() -> None:
    better = [*GOOD, row("trained - untrained", 0.1, 0.05, 0.15, "linear")]
    assert not decide(better, champion(knn=0.41, linear=0.60), CLEAN, wanted="linear").promote
    assert decide(better, champion(knn=0.41, linear=0.59), CLEAN, wanted="linear").promote


@pytest.mark.parametrize(("before", "promoted"), [(0.30, True), (0.27, False)])
def test_of_an_error_less_is_better(before: float, promoted: bool) -> None:
    error = row("trained", 0.30, 0.28, 0.32, "corruptions", "mean error, not normalised")
    held = champion() | scores([error | {"value": before}])
    verdict = decide([*GOOD, error], held, CLEAN)
    assert verdict.promote == promoted
    if not promoted:
        assert "0.2700 to 0.3000 (at least 0.2800)" in verdict.reason


def test_a_protocol_that_the_champion_has_and_the_candidate_lacks_is_refused() -> None:
    verdict = decide([GOOD[0], GAIN], champion(), CLEAN)
    assert "cifar10.linear.trained.top1, which the champion has (0.6000), was not evaluated" in verdict.reason


def test_scores_over_other_images_are_not_compared() -> None:
    held = scores([row("trained", 0.39, 0, 1) | {"count": 500}])
    verdict = decide(GOOD, held, CLEAN)
    assert not verdict.promote
    assert "cifar10.knn.trained.top1 is over 1000 images, the champion's over 500" in verdict.reason


def test_a_score_that_is_no_number_is_refused() -> None:
    nan = float("nan")
    assert not decide([row("trained", nan, nan, nan), *GOOD[1:]], champion(), CLEAN).promote


def test_a_leak_is_refused_with_its_count_and_so_is_not_having_looked() -> None:
    verdict = decide(GOOD, {}, Evidence(leaks={"identical": 2, "dropped": 0, "close": 1}))
    assert verdict.refusals == ("leakage: 3 images of the training set show evaluation images (2 identical, 1 close)",)
    assert "was not compared" in decide(GOOD, {}, Evidence()).reason


def test_a_data_gate_that_did_not_pass_is_refused_by_name() -> None:
    gates = ["filtered_set:verdicts_table (nsfw: 7)", *(f"gate {i} (never made)" for i in range(7))]
    verdict = decide(GOOD, {}, Evidence(leaks={}, gates=gates))
    assert verdict.reason.startswith("data gates: 8 did not pass: filtered_set:verdicts_table (nsfw: 7), ")
    assert verdict.reason.endswith("and 3 more")


def test_what_was_taken_back_is_not_promoted_again_by_itself() -> None:
    verdict = decide(GOOD, {}, Evidence(leaks={}, taken_back="wrong on snow"))
    assert verdict.refusals == ("rollback: this version was champion and was taken back (wrong on snow)",)


def test_every_rule_that_was_broken_is_said() -> None:
    verdict = decide([GOOD[0]], champion(knn=0.5), Evidence(gates=["g (failed)"]))
    assert [one.split(":")[0] for one in verdict.refusals] == [
        "untrained",
        "fall",
        "comparable",
        "rise",
        "leakage",
        "data gates",
    ]


def test_a_champion_that_names_no_logged_model_is_said_so() -> None:
    version = SimpleNamespace(name="dinov2", version="3", tags={})
    with pytest.raises(UserError, match=r"version 3 of dinov2 .* give it the tag `model_id`"):
        _scores(SimpleNamespace(), version)
