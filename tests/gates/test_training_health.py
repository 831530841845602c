"""A healthy history passes; each way of falling ill is named, and the grave ones block."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from dinov2_core.gates.expectation import Finding
from dinov2_core.gates.training_health import findings, series
from dinov2_core.train import metrics

PROTOTYPES, STEPS = 256, 101
History = dict[str, list[tuple[int, float]]]


def healthy() -> History:
    """Every tenth step, with values as the demo's training has them."""
    steps = range(0, STEPS, 10)
    return {
        "total": [(s, 9 - 0.03 * s) for s in steps],
        "target_entropy": [(s, 5 - 0.01 * s) for s in steps],
        "feature_rank": [(s, 9 + 0.1 * s) for s in steps],
        "prototypes_used": [(s, 0.2) for s in steps],
        "grad_norm.backbone": [(s, 20.0 if s < 10 else 2.0) for s in steps],
    }


def ill(history: History, steps: int = STEPS) -> list[Finding]:
    return [f for f in findings(history, prototypes=PROTOTYPES, steps=steps) if f.outside()]


def put(name: str, at: int, value: float) -> Callable[[History], None]:
    def change(history: History) -> None:
        history[name][at] = (history[name][at][0], value)

    return change


def test_a_healthy_training_passes() -> None:
    assert ill(healthy()) == []


@pytest.mark.parametrize(
    ("change", "kind", "column", "severities"),
    [
        (put("total", 4, math.nan), "ExpectTrainingToBeFinite", "total", {"error"}),
        (put("grad_norm.backbone", 4, math.inf), "ExpectTrainingToBeFinite", "total", {"error"}),
        (lambda h: h["total"].pop(4), "ExpectTrainingToSkipNoStep", "total", {"warn"}),
        (lambda h: h["total"].pop(), "ExpectTrainingToEndAtItsLastStep", "total", {"error"}),
        (lambda h: h.clear(), "ExpectTrainingToEndAtItsLastStep", "total", {"error"}),
        (put("target_entropy", -1, math.log(256)), "ExpectLastValueToBeBetween", "target_entropy", {"error", "warn"}),
        (put("target_entropy", -1, 0.0), "ExpectLastValueToBeBetween", "target_entropy", {"error", "warn"}),
        (put("target_entropy", -1, 0.98 * math.log(256)), "ExpectLastValueToBeBetween", "target_entropy", {"warn"}),
        (put("prototypes_used", -1, 1 / 256), "ExpectLastValueToBeBetween", "prototypes_used", {"error", "warn"}),
        (put("feature_rank", -1, 1.0), "ExpectLastValueToBeBetween", "feature_rank", {"error", "warn"}),
        (put("feature_rank", -1, 7.0), "ExpectLastValueToBeBetween", "feature_rank", {"warn"}),
        (put("feature_rank", -1, math.nan), "ExpectLastValueToBeBetween", "feature_rank", {"error", "warn"}),
        (put("grad_norm.backbone", -1, 50.0), "ExpectGradientToStayCalm", "grad_norm.backbone", {"warn"}),
        (
            lambda h: h.update({"grad_norm.backbone": [(s, 0.0) for s, _ in h["total"]]}),
            "ExpectGradientToBeAlive",
            "grad_norm.backbone",
            {"error"},
        ),
    ],
)
def test_each_illness_is_named(change: Callable[[History], None], kind: str, column: str, severities: set[str]) -> None:
    history = healthy()
    change(history)
    found = [f for f in ill(history) if f.expect.kind == kind]
    assert {f.expect.about for f in found} == {column}
    assert {f.expect.severity for f in found} == severities


def test_the_step_of_a_value_that_is_not_finite_is_told() -> None:
    history = healthy()
    put("total", 4, math.nan)(history)
    assert ill(history)[0].examples == ("step 40: total nan",)


def test_a_training_of_one_record_is_judged() -> None:
    history = {name: values[:1] for name, values in healthy().items()}
    assert ill(history, steps=1) == []


def test_a_history_without_diagnostics_is_judged_by_its_loss_alone() -> None:
    found = findings({"total": healthy()["total"]}, prototypes=PROTOTYPES, steps=STEPS)
    assert {f.expect.about for f in found} == {"total"}


def test_series_sorts_by_step_and_reads_a_missing_value_as_not_a_number() -> None:
    rows = [{"step": 2, "name": "a", "value": 1.0}, {"step": 1, "name": "a", "value": None}]
    found = series(rows)["a"]
    assert [s for s, _ in found] == [1, 2]
    assert math.isnan(found[0][1])


def test_the_metrics_are_those_that_the_trainer_reports() -> None:
    import torch

    from dinov2_core.train.objective import Losses

    losses = Losses({}, torch.rand(2, 4, 8), torch.softmax(torch.rand(2, 4, 16), -1))
    assert {"target_entropy", "prototypes_used", "feature_rank"} == set(metrics.diagnostics(losses))
