"""One model, one data set, one protocol or all of them: what ``dinov2 evaluate`` and the pipeline call."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dinov2_core import config
from dinov2_core.errors import UserError
from dinov2_core.evaluate import protocols, score_tables
from dinov2_core.evaluate.datasets import transfer
from dinov2_core.evaluate.model import EvalModel
from dinov2_core.evaluate.protocol import Context, NotApplicableError, Scores


@dataclass(frozen=True)
class Evaluation:
    """``skipped``: protocol → why it did not run; ``seconds``: protocol → how long it took."""

    results: tuple[Scores, ...]
    skipped: Mapping[str, str]
    seconds: Mapping[str, float]


def open_data(spec: str) -> Any:
    """``NAME=PATH`` of a known set, or the path of a ``folder``.

    Raises:
        UserError: naming what is missing there.
    """
    name, _, path = spec.rpartition("=")
    return transfer.load(name or "folder", Path(path))


def evaluate(
    model: EvalModel,
    data: Any,
    names: Sequence[str],
    context: Context,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
) -> Evaluation:
    """Run the protocols ``names``; ``["all"]`` runs what the data allows and collects why others cannot.

    Raises:
        UserError: a named protocol cannot run. A broken image or features that are not finite end ``all`` as well.
    """
    everything = list(names) == ["all"]
    results, skipped, seconds = [], {}, {}
    for name in protocols.PROTOCOLS if everything else names:
        protocol = protocols.get(name)
        options = config.build(protocol.options, (settings or {}).get(name) or {}, where=name)
        reason = unfit(protocol.needs, data)
        if reason and not everything:
            raise UserError(reason, where=name, todo="give data of that kind")
        if reason:
            skipped[name] = reason
            continue
        start = time.perf_counter()
        try:
            results.append(protocol.run(model, data, options, context))
        except NotApplicableError as error:
            if not everything:
                raise
            skipped[name] = error.what
        seconds[name] = time.perf_counter() - start
    return Evaluation(tuple(results), skipped, seconds)


def unfit(needs: str, data: Any) -> str:
    """Why data is of the wrong kind; empty where it is right."""
    return "" if data.kind == needs else f"needs {needs} data, and this is {data.kind}"


def save(found: Evaluation, model: EvalModel, folder: Path) -> None:
    """The tables of an evaluation in ``folder``."""
    about = {"model": model.name, "weights": model.digest, "seconds": dict(found.seconds)}
    score_tables.write(folder, found.results, title=model.name, skipped=found.skipped, about=about)
