"""How an asset that trains is tracked: one run a training, continued when a killed one resumes.

The tracker itself is a resource; what is trained is in ``dinov2_core``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import dagster as dg

from dinov2_core import config, stage
from dinov2_core.manifest import WHOLE
from dinov2_core.stage import StageSpec
from dinov2_core.tracker import Tracker

TEACHER = "pretrained_checkpoint"


@contextlib.contextmanager
def tracked(
    context: dg.AssetExecutionContext, tracking: Any, lake: Any, spec: StageSpec, params: Any
) -> Iterator[Tracker | None]:
    """A tracker for the stage's training, or None where the stage is up to date and nothing will train."""
    fingerprint, upstream, current = stage.state(lake.store(), spec, WHOLE, params)
    if current is not None:
        tracking.finish(fingerprint)
        yield None
        return
    # What is distilled hangs below the training of its teacher.
    teacher = next((made for made in upstream.values() if made.stage == TEACHER), None)
    with tracking.training(
        spec.name,
        fingerprint,
        flatten(stage.quality(params)),
        {key: made.hash for key, made in upstream.items()},
        {"dagster.run_id": context.run_id},
        parent=(TEACHER, teacher.fingerprint) if teacher else None,
        root=lake.store().root,
    ) as tracker:
        yield tracker


def flatten(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings as ``a.b.c`` → value; lists as JSON."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = config.canonical_json(value) if isinstance(value, list) else value
    return flat
