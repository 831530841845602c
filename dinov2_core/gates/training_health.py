"""Whether a training stayed healthy, from the history that it ships: finite, not collapsed, gradients alive.

Collapse of self-distillation has two ends (DINO, arXiv 2104.14294, section 3.1): every image gets the same target, or
every target is uniform. Both show in the teacher's targets; features that lie in few directions show in their rank
(RankMe, arXiv 2210.02885). The metrics are those of ``train/metrics``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from dinov2_core.gates.expectation import Expect, Finding, error, warn

ENTROPY = "target_entropy"
RANK = "feature_rank"
USED = "prototypes_used"
GRADIENT = "grad_norm."
LOSS = "total"

Series = Mapping[str, Sequence[tuple[int, float]]]
"""Metric → (step, value) in order of step."""


def series(rows: Sequence[Mapping[str, object]]) -> dict[str, list[tuple[int, float]]]:
    """The table ``history`` by metric; a value that is missing is NaN."""
    found: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        value = row["value"]
        number = math.nan if value is None else float(value)  # type: ignore[arg-type]
        found.setdefault(str(row["name"]), []).append((int(row["step"]), number))  # type: ignore[call-overload]
    return {name: sorted(values) for name, values in sorted(found.items())}


def findings(history: Series, *, prototypes: int, steps: int) -> list[Finding]:
    """Every gate on one training.

    Args:
        prototypes: of the head on the class token; entropies are shares of its logarithm.
        steps: how many the recipe asked for.
    """
    made = [_finite(history), _recorded(history, steps), _ends(history, steps)]
    if ENTROPY in history:
        share = _last(history, ENTROPY) / math.log(prototypes)
        made += _within(ENTROPY, share, "of ln K", (0.005, 0.995), (0.05, 0.97))
    if USED in history:
        # As a number: one prototype for all images is the collapse, whatever share of K that is.
        made += _within(USED, _last(history, USED) * prototypes, "prototypes", (1.5, None), (4.0, None))
    if RANK in history:
        made += _within(RANK, _last(history, RANK), "directions", (1.5, None), (3.0, None))
        best = max((v for _, v in history[RANK] if math.isfinite(v)), default=math.nan)
        made += _within(RANK, _last(history, RANK) / best, "of its peak", (0.1, None), (0.5, None))
    for name in sorted(n for n in history if n.startswith(GRADIENT)):
        made += _gradient(name, history[name])
    return made


def _last(history: Series, name: str) -> float:
    return history[name][-1][1]


def _finite(history: Series) -> Finding:
    bad = [f"step {step}: {name} {value}" for name, s in history.items() for step, value in s if not np.isfinite(value)]
    expect = error("ExpectTrainingToBeFinite", column=LOSS)
    return Finding(expect, (float(len(bad)),), None, 0, len(bad), tuple(bad[:5]))


def _recorded(history: Series, steps: int) -> Finding:
    """Steps that are not finite are skipped and leave no record: a gap tells of them."""
    at = [step for step, _ in history.get(LOSS, ())]
    gaps = np.diff(at)
    usual = float(np.median(gaps)) if len(gaps) else float(steps)
    lost = [f"none between steps {at[i]} and {at[i + 1]}" for i in np.flatnonzero(gaps > usual)]
    expect = warn("ExpectTrainingToSkipNoStep", column=LOSS)
    return Finding(expect, (float(len(lost)),), None, 0, len(lost), tuple(lost[:5]))


def _ends(history: Series, steps: int) -> Finding:
    last = max((step for step, _ in history.get(LOSS, ())), default=-1)
    expect = error("ExpectTrainingToEndAtItsLastStep", column=LOSS)
    return Finding(expect, (float(last),), steps - 1, steps - 1, f"step {last} of 0 … {steps - 1}")


def _within(
    name: str,
    value: float,
    unit: str,
    blocks: tuple[float | None, float | None],
    shows: tuple[float | None, float | None],
) -> list[Finding]:
    """The same value against a wide range, whose breach blocks, and a narrow one, whose breach shows."""
    made = []
    for bounds, make in ((blocks, error), (shows, warn)):
        expect: Expect = make("ExpectLastValueToBeBetween", column=name, unit=unit, low=bounds[0], high=bounds[1])
        made.append(Finding(expect, (value,), *bounds, f"{value:.4g} {unit}"))
    return made


def _gradient(name: str, values: Sequence[tuple[int, float]]) -> list[Finding]:
    """A gradient of zero teaches nothing; one far above the usual in the second half is a blow-up under way."""
    norms = np.array([value for _, value in values])
    largest = float(norms.max(initial=0.0)) if np.isfinite(norms).all() else math.nan
    alive = Finding(error("ExpectGradientToBeAlive", column=name), (largest,), 1e-12, None, f"at most {largest:.4g}")
    half = norms[len(norms) // 2 :]
    usual = float(np.median(norms))
    peak = float(half.max() / usual) if usual > 0 else None
    steps = [f"step {step}: {value:.4g}" for step, value in values[len(norms) // 2 :] if value > 10 * usual]
    calm = warn("ExpectGradientToStayCalm", column=name, times_median=10)
    said = "no gradient" if peak is None else f"{peak:.3g} times the median"
    return [alive, Finding(calm, (peak,), None, 10.0, said, tuple(steps[:5]))]
