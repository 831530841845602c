"""Mixing what several query sets draw into one curated set, by recipe.

How one set draws is in ``retrieval``; which table columns the result has is in ``tables``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dinov2_core.curation.retrieval import CAP, LARGE_SET, MIN_HITS, PER_CLUSTER, SAMPLE_K
from dinov2_core.curation.scratch import Scratch
from dinov2_core.errors import ConfigError, nearest

Mode = Literal["as is", "sample", "cluster"]


@dataclass(frozen=True)
class SetRecipe:
    """How the seed set ``name`` enters the mix; the constants are the DINOv2 paper's, appendix A.4.

    ``k`` is of sample mode; ``min_hits`` (a cluster counts with more seeds than this), ``per_cluster`` and ``cap`` are
    of cluster mode. Two rules beyond the paper, off by default, keep out what is only the nearest of what there is:
    ``floor`` ≥ 0 is a quantile of the seeds' cosines to their own nearest seed, which a pool image must reach (see
    ``retrieval.seed_floor``); ``min_lift`` is how many times its share of the pool a cluster's share of the seeds must
    be.
    """

    name: str
    modes: tuple[Mode, ...]
    k: int = SAMPLE_K
    min_hits: int = MIN_HITS
    per_cluster: int = PER_CLUSTER
    cap: int = CAP
    floor: float = -1.0
    min_lift: float = 0.0

    def __post_init__(self) -> None:
        if not self.modes or len(set(self.modes)) != len(self.modes):
            raise ValueError(f"the seed set '{self.name}' needs one mode or more, each once")
        for value, least in ((self.k, 1), (self.min_hits, 0), (self.per_cluster, 1), (self.cap, 1)):
            if value < least:
                raise ValueError(f"the recipe of '{self.name}' has a number under {least}")


def by_size(name: str, queries: int) -> SetRecipe:
    """The paper's rule: sets of over a million images enter as they are and are sampled from, others go by cluster."""
    return SetRecipe(name, ("as is", "sample") if queries > LARGE_SET else ("cluster",))


def complete(recipes: Sequence[SetRecipe], sizes: Mapping[str, int], *, where: str = "") -> list[SetRecipe]:
    """A recipe for every seed set in ``sizes`` (name → images), in order of name.

    Raises:
        ConfigError: a recipe for a set that is not there, or two for one.
    """
    named: dict[str, SetRecipe] = {}
    for recipe in recipes:
        if recipe.name not in sizes:
            raise ConfigError(
                f"no seed set '{recipe.name}'{nearest(recipe.name, sizes)}",
                where=where,
                todo=f"seed sets: {', '.join(sizes)}",
            )
        if recipe.name in named:
            raise ConfigError(f"two recipes for the seed set '{recipe.name}'", where=where)
        named[recipe.name] = recipe
    return [named.get(name) or by_size(name, sizes[name]) for name in sorted(sizes)]


def mix(
    draws: Sequence[np.ndarray], names: np.ndarray, *, seed: int = 0, scratch: Scratch | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Each image once, in a seeded order, under the first of ``draws`` that has it: int64 [P], and that draw's number.

    ``draws`` holds numbers of images in order of precedence; ``names`` [N] are the images' ids by number. Which images
    there are decides the order, and not who drew them. ``scratch``: where what grows with N lies.
    """
    first = scratch.empty(len(names), np.int16) if scratch else np.empty(len(names), np.int16)
    first[:] = -1
    for number, drawn in enumerate(draws):
        first[drawn[first[drawn] < 0]] = number
    chosen = np.flatnonzero(first >= 0)
    chosen = chosen[np.argsort(names[chosen], kind="stable")]
    chosen = chosen[np.random.default_rng(seed).permutation(len(chosen))]
    return chosen, first[chosen]
