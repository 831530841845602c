"""The gate before ``champion``: what a model version must show, as a pure function over metrics.

Registering and moving aliases is in ``registered_model.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Verdict:
    """``reason`` says which rule decided, with the numbers."""

    promote: bool
    reason: str


def decide(metrics: Sequence[Mapping[str, Any]], champion: Mapping[str, float]) -> Verdict:
    """Whether a model with these rows of the metrics table becomes champion.

    It must be above the same model untrained by more than the paired bootstrap interval, and no metric may fall below
    the present champion's by more than its own interval. ``champion`` maps ``dataset.protocol.model.metric`` to a
    value; empty where there is no champion yet.
    """
    gains = [m for m in metrics if m["model"] == "trained - untrained"]
    if not gains:
        return Verdict(False, "no comparison with the untrained model was made")
    for gain in gains:
        if gain["protocol"] == "knn" and not gain["low"] > 0:
            return Verdict(
                False,
                f"k-NN on {gain['dataset']} is not above the untrained model: "
                f"difference {gain['value']:+.4f}, 95 % interval {gain['low']:+.4f} to {gain['high']:+.4f}",
            )
    for one in metrics:
        if one["model"] != "trained":
            continue
        name = f"{one['dataset']}.{one['protocol']}.trained.{one['metric']}"
        if name in champion and one["high"] < champion[name]:
            return Verdict(
                False,
                f"{name} fell from the champion's {champion[name]:.4f} to {one['value']:.4f} "
                f"(at most {one['high']:.4f})",
            )
    first = next(g for g in gains)
    against = "no metric below the champion's interval" if champion else "the first champion"
    return Verdict(True, f"k-NN {first['value']:+.4f} over the untrained model; {against}")
