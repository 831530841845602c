"""The champion as what stands before the embeddings: an external asset, observed and never materialised here.

Its data version is the registered version that carries the alias ``champion``. The embeddings record the version they
were made with, so the UI shows them as stale once another model is champion; nothing is computed because of that.
"""

from __future__ import annotations

from typing import Any

import dagster as dg
from dagster._core.definitions.data_version import DEFAULT_DATA_VERSION

from dinov2_core import adopted_encoder

NAME = "champion"
NONE = str(DEFAULT_DATA_VERSION.value)
"""Before any encoder was adopted: what Dagster takes for an external asset that was never observed."""

champion = dg.AssetSpec(
    NAME,
    group_name="release",
    kinds={"mlflow"},
    description="The registered version that carries the alias `champion`; the job adopt_champion lets it embed.",
)


def adopted_version(lake: Any) -> str:
    """The version whose weights embed the pool now."""
    found = adopted_encoder.read(lake.store())
    return NONE if found is None else found.version
