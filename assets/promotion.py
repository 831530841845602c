"""The rules before ``champion``: what a model version must show, as pure functions over numbers.

Where the numbers come from is in ``registered_model.py`` and ``gate_results.py``; how the alias moves in
``pipelines/resources/champions.py``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

TRAINED = "trained"
LOWER = re.compile(r"error\b|mean error|mCE|rmse|gap|FPR", re.I)
"""Metrics, as the rows name them, of which less is better."""
_SHOWN = 5


@dataclass(frozen=True)
class Verdict:
    """``reason`` says which rule decided, with the numbers; ``refusals`` are all rules that were broken."""

    promote: bool
    reason: str
    refusals: tuple[str, ...] = ()


@dataclass(frozen=True)
class Evidence:
    """What is known of a candidate beside its scores.

    ``leaks``: kind of leak → images of the training set, None where nobody has looked. ``gates``: data gates that did
    not pass, each with what it said. ``taken_back``: why the version lost the alias before.
    """

    leaks: Mapping[str, int] | None = None
    gates: Sequence[str] = ()
    taken_back: str = ""


def decide(
    metrics: Sequence[Mapping[str, Any]],
    champion: Mapping[str, float],
    evidence: Evidence,
    *,
    wanted: str = "knn",
    minimum_gain: float = 0.0,
) -> Verdict:
    """Whether a model with these rows of the metrics table becomes champion.

    Args:
        metrics: the candidate's rows.
        champion: the present champion's scores as :func:`scores` names them; empty where there is none.
        wanted: the protocol whose accuracy must rise, against the champion and against the same model untrained.
        minimum_gain: what the lower end of the paired interval of trained minus untrained must exceed.
    """
    refusals = [
        *_above_untrained(metrics, wanted, minimum_gain),
        *_falls(metrics, champion),
        *_rises(metrics, champion, wanted),
        *_clean(evidence),
    ]
    if refusals:
        return Verdict(False, "; ".join(refusals), tuple(refusals))
    first = next(m for m in metrics if m["protocol"] == wanted and m["model"] == f"{TRAINED} - untrained")
    gain = f"{wanted} {first['value']:+.4f} over the untrained model"
    if not champion:
        return Verdict(True, f"{gain}; the first champion")
    risen = ", ".join(
        f"{name} {champion[name]:.4f} → {row['value']:.4f}"
        for name, row in _trained(metrics)
        if row["protocol"] == wanted and name in champion
    )
    return Verdict(True, f"{risen}; no score below the champion's by more than its interval; {gain}")


def scores(metrics: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The rows as a tracker keeps them: ``dataset.protocol.model.metric`` → value, and for the trained model
    ``….count``, by which later candidates know that they were scored on as many images."""
    found = {metric_name(row): float(row["value"]) for row in metrics}
    return found | {f"{name}.count": float(row["count"]) for name, row in _trained(metrics)}


def metric_name(row: Mapping[str, Any]) -> str:
    """``dataset.protocol.model.metric``, of the characters that the tracker takes."""
    return re.sub(r"[^\w\-./ ]", "_", f"{row['dataset']}.{row['protocol']}.{row['model']}.{row['metric']}")


def _trained(metrics: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    return ((metric_name(row), row) for row in metrics if row["model"] == TRAINED)


def _above_untrained(metrics: Sequence[Mapping[str, Any]], wanted: str, minimum: float) -> Iterator[str]:
    gains = [m for m in metrics if m["model"] == f"{TRAINED} - untrained" and m["protocol"] == wanted]
    if not gains:
        yield f"untrained: no comparison of {wanted} with the untrained model was made"
    for gain in gains:
        if not gain["low"] > minimum:
            yield (
                f"untrained: {wanted} on {gain['dataset']} is not above the untrained model by more than {minimum:g}: "
                f"difference {gain['value']:+.4f}, 95 % interval {gain['low']:+.4f} to {gain['high']:+.4f}"
            )


def _falls(metrics: Sequence[Mapping[str, Any]], champion: Mapping[str, float]) -> Iterator[str]:
    found = dict(_trained(metrics))
    for name, row in found.items():
        if name not in champion:
            continue
        count = champion.get(f"{name}.count")
        if count is not None and count != row["count"]:
            yield f"comparable: {name} is over {row['count']} images, the champion's over {count:.0f}"
            continue
        before, lower = champion[name], bool(LOWER.match(row["metric"]))
        # A score that is not a number is below everything.
        if not (row["low"] <= before if lower else row["high"] >= before):
            edge = "at least" if lower else "at most"
            yield (
                f"fall: {name} went from the champion's {before:.4f} to {row['value']:.4f} "
                f"({edge} {row['low' if lower else 'high']:.4f})"
            )
    for name in champion:
        if f"{name}.count" in champion and name not in found:
            yield f"comparable: {name}, which the champion has ({champion[name]:.4f}), was not evaluated"


def _rises(metrics: Sequence[Mapping[str, Any]], champion: Mapping[str, float], wanted: str) -> Iterator[str]:
    for name, row in _trained(metrics):
        if row["protocol"] != wanted or name not in champion:
            continue
        risen = row["value"] < champion[name] if LOWER.match(row["metric"]) else row["value"] > champion[name]
        if not risen:
            yield f"rise: {name} is {row['value']:.4f}, not better than the champion's {champion[name]:.4f}"


def _clean(evidence: Evidence) -> Iterator[str]:
    if evidence.leaks is None:
        yield "leakage: the training set was not compared with the evaluation sets"
    elif sum(evidence.leaks.values()):
        parts = ", ".join(f"{count} {kind}" for kind, count in evidence.leaks.items() if count)
        yield f"leakage: {sum(evidence.leaks.values())} images of the training set show evaluation images ({parts})"
    if evidence.gates:
        more = f" and {len(evidence.gates) - _SHOWN} more" if len(evidence.gates) > _SHOWN else ""
        yield f"data gates: {len(evidence.gates)} did not pass: {', '.join(evidence.gates[:_SHOWN])}{more}"
    if evidence.taken_back:
        yield f"rollback: this version was champion and was taken back ({evidence.taken_back})"
