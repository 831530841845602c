"""What neighbour search costs on GPUs, exact and by inverted lists, and the size at which the one takes over.

The searches themselves are in ``curation/search_exact`` and ``curation/search_faiss``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dinov2_core.plan.unit_costs import UnitCosts

PROBES, TRAIN_PER_LIST, TRAIN_ROUNDS = 32, 64, 10


@dataclass(frozen=True)
class SearchCost:
    """Seconds of one GPU, and which kind of search they are of."""

    kind: Literal["exact", "ivf"]
    seconds: float


def lists(pool: float) -> float:
    """Inverted lists of a pool: as ``curation/search_faiss.lists_for``."""
    return max(1.0, min(pool // 39, 4 * pool**0.5))


def exact(queries: float, pool: float, dim: int, rate: float, costs: UnitCosts, *, itself: bool = False) -> SearchCost:
    """2 · Q · M · D operations at the search's share of the product rate; half where the pool searches itself."""
    work = 2 * queries * pool * dim * (0.5 if itself else 1.0)
    return SearchCost("exact", work / (rate * costs["search_efficiency"]))


def inverted(queries: float, pool: float, dim: int, rate: float, costs: UnitCosts) -> SearchCost:
    """Fitting and filling the lists and choosing those of each query are products; reading them is not."""
    count = lists(pool)
    products = 2 * dim * count * (TRAIN_ROUNDS * min(pool, TRAIN_PER_LIST * count) + pool + queries)
    scanned = 2 * dim * queries * PROBES * pool / count
    seconds = products / (rate * costs["assign_efficiency"]) + scanned / (rate * costs["list_efficiency"])
    return SearchCost("ivf", seconds)


def planned(
    queries: float,
    pool: float,
    dim: int,
    rate: float,
    costs: UnitCosts,
    *,
    itself: bool = False,
    affordable: float = 0.0,
) -> SearchCost:
    """Exact search while it takes at most ``affordable`` seconds, or less than inverted lists, which lose recall."""
    one = exact(queries, pool, dim, rate, costs, itself=itself)
    other = inverted(queries, pool, dim, rate, costs)
    return one if one.seconds <= max(other.seconds, affordable) else other


def crossover(queries: float | None, dim: int, rate: float, costs: UnitCosts) -> float:
    """The pool above which inverted lists are cheaper; ``queries`` None: the pool searches itself.

    Bisection to one percent between 10^3 and 10^12 rows; infinity where exact search stays cheaper.
    """

    def is_exact(pool: float) -> bool:
        return planned(queries or pool, pool, dim, rate, costs, itself=queries is None).kind == "exact"

    low, high = 1e3, 1e12
    if is_exact(high):
        return float("inf")
    while high / low > 1.01:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if is_exact(middle) else (low, middle)
    return high
