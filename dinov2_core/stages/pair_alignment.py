"""Aligning many pairs of stored images in parallel, for the stages that write edges.

The alignment of one pair is in ``curation/alignment``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dinov2_core.curation.alignment import Thumbnail, correlation
from dinov2_core.images.decode import Decoded, decode
from dinov2_core.images.shards import read_image
from dinov2_core.stage import StageRun
from dinov2_core.storage import Store

Location = Mapping[str, Any]
PAIRS_PER_TASK = 500


def align_pairs(run: StageRun, pairs: Sequence[tuple[Location, Location]], *, name: str = "align") -> np.ndarray:
    """The alignment of each pair of image locations (``shard``, ``offset``, ``length``): float32 [P].

    ``name`` tells calls of one stage apart.
    """
    tasks = {}
    for start in range(0, len(pairs), PAIRS_PER_TASK):
        some = pairs[start : start + PAIRS_PER_TASK]
        places: dict[tuple[Any, ...], int] = {}
        indices = [[places.setdefault(_place(location), len(places)) for location in pair] for pair in some]
        task = {"images": [list(p) for p in places], "pairs": indices}
        tasks[f"{name}-{start // PAIRS_PER_TASK:05d}"] = task
    done = run.map(_align, tasks, label="pairs", unit=lambda s: len(s["alignment"]), total=len(pairs))
    return np.array([value for summary in done for value in summary["alignment"]], dtype=np.float32)


def _place(location: Location) -> tuple[Any, ...]:
    return (location["shard"], location["offset"], location["length"])


def _align(task: Mapping[str, Any]) -> dict[str, Any]:
    store = Store(task["root"])
    thumbnails = []
    for shard, offset, length in task["images"]:
        decoded = decode(read_image(store, {"shard": shard, "offset": offset, "length": length}))
        assert isinstance(decoded, Decoded)
        thumbnails.append(Thumbnail(decoded.pixels))
    return {"alignment": [correlation(thumbnails[a], thumbnails[b]) for a, b in task["pairs"]]}
