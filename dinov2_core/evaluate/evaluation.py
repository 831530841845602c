"""One model, one data set, one protocol or all of them: what ``dinov2 evaluate`` and the pipeline call."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dinov2_core import config
from dinov2_core.errors import ConfigError, UserError, nearest
from dinov2_core.evaluate import evaluation_page, patch_figures, protocols, score_tables
from dinov2_core.evaluate.datasets import openers
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
    return openers.load(name or "folder", Path(path))


def evaluate(
    model: EvalModel,
    data: Any,
    names: Sequence[str],
    context: Context,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
) -> Evaluation:
    """Run the protocols ``names``; ``["all"]`` runs what the data allows and collects why others cannot.

    Raises:
        ConfigError: settings of a protocol that there is not, or that it does not know.
        UserError: a named protocol cannot run. A broken image or features that are not finite end ``all`` as well.
    """
    check_settings(settings)
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


def check_settings(settings: object) -> None:
    """ConfigError where ``settings`` are no table of protocol → settings."""
    if not isinstance(settings, Mapping | None):
        raise ConfigError(f"protocol → settings expected, not {type(settings).__name__}", where="settings")
    for name in settings or {}:
        if name not in protocols.PROTOCOLS:
            near = nearest(str(name), protocols.PROTOCOLS)
            todo = f"one of {', '.join(protocols.PROTOCOLS)}"
            raise ConfigError(f"settings of an unknown protocol '{name}'{near}", where="settings", todo=todo)


def unfit(needs: str, data: Any) -> str:
    """Why data is of the wrong kind; empty where it is right."""
    return "" if data.kind == needs else f"needs {needs} data, and this is {data.kind}"


def save(found: Evaluation, model: EvalModel, folder: Path, data: Any = None) -> None:
    """The tables of an evaluation in ``folder``, and the page with pictures.

    Args:
        data: shows what the model sees in a few of its pictures, which costs as many forward passes.
    """
    about = {"model": model.name, "weights": model.digest, "seconds": dict(found.seconds)}
    score_tables.write(folder, found.results, title=model.name, skipped=found.skipped, about=about)
    shown = patch_figures.some_pictures(data) if data is not None else []
    seen = [patch_figures.patch_figure(model.backbone, model.preprocessing, shown)] if shown else []
    evaluation_page.write(folder, found.results, title=model.name, skipped=found.skipped, seen=seen)
