"""Features of a list of things, from the cache or computed into it in shares: one pass, then none.

Which features is the caller's; where they lie and how they are kept is in ``cache.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinov2_core.evaluate import cache as caches
from dinov2_core.evaluate.cache import Compute, FeatureCache
from dinov2_core.evaluate.protocol import Context
from dinov2_core.evaluate.shares import Share, in_shares

Shapes = Mapping[str, tuple[int, ...]]


def extracted(
    context: Context, key: Mapping[str, Any], shapes: Shapes, compute: Compute, *, label: str
) -> dict[str, NDArray[np.float32]]:
    """The arrays of ``key``, memory-mapped.

    Args:
        key: plain values: all that the features depend on.
        shapes: name → ``(N, …)``.
        compute: picklable where ``context.processes`` is above 1. Ranks must see one file system.

    Raises:
        UserError: what ``compute`` raises, or features that are not finite.
    """
    folder = context.cache.folder(**key)
    # Asked of all at once: another program may finish them between two looks.
    if not all(in_shares(partial(_there, context.cache, folder))):
        in_shares(partial(_begin, folder, shapes))
        in_shares(partial(_fill, context.cache, folder, shapes, compute, label), context.processes)
        in_shares(partial(_finish, context.cache, folder, key))
    found = context.cache.read(folder)
    assert found is not None, "just finished"
    return found


def _there(cache: FeatureCache, folder: Path, _share: Share) -> bool:
    return cache.read(folder) is not None


def _begin(folder: Path, shapes: Shapes, share: Share) -> None:
    if share[0] == 0:
        caches.begin(folder, shapes)


def _fill(cache: FeatureCache, folder: Path, shapes: Shapes, compute: Compute, label: str, share: Share) -> None:
    cache.fill(folder, shapes, compute, label=label, share=share)


def _finish(cache: FeatureCache, folder: Path, key: Mapping[str, Any], share: Share) -> None:
    if share[0] == 0:
        cache.finish(folder, key)
