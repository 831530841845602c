"""A plan as text: stages, totals, what search would cost each way, and every number it rests on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dinov2_core.plan import search
from dinov2_core.plan.machines import Machines
from dinov2_core.plan.stages import (
    COPY_DIM,
    DEDUP_AND_RETRIEVAL,
    ENCODERS,
    KEPT,
    SHARD,
    Pool,
    StageCost,
    published,
)
from dinov2_core.plan.unit_costs import UnitCosts


def size(value: float) -> str:
    """Bytes in decimal units."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} PB"


def count(value: float) -> str:
    """``1200000000`` → ``1.2 G``."""
    for unit in ("", " k", " M"):
        if value < 1000:
            return f"{value:.3g}{unit}"
        value /= 1000
    return f"{value:.4g} G"


def hours(value: float) -> str:
    """``–`` for none; three digits otherwise."""
    return "–" if not value else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def gpu_hours(made: Sequence[StageCost]) -> float:
    """Of dedup and retrieval, with the embeddings they need: what the target and the paper's figure are about."""
    return sum(one.gpu for one in made if one.name in DEDUP_AND_RETRIEVAL)


def text(
    pool: Pool, machines: Machines, made: Sequence[StageCost], costs: UnitCosts, prices: Mapping[str, float]
) -> str:
    """The whole page."""
    lines = [
        (
            f"{count(pool.images)} images on {machines.gpus} {machines.gpu.upper()}, {machines.cores:,} cores, "
            f"storage at {size(machines.storage_rate)}/s; {pool.shards:,} shards of {SHARD:,}, "
            f"{pool.partitions:,} partitions of "
            f"{pool.batch:,.0f}; retrieval by {pool.encoder}"
        ),
        "",
        "| stage | rows | partitions | moved | stored | GPU h | core h | wall h | bottleneck | costs | |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in made:
        kinds = {costs.known[name].kind for name in one.uses}
        said = "measured" if kinds == {"measured"} else "assumed" if kinds == {"assumed"} else "partly assumed"
        note = ", ".join(filter(None, [one.note, "one process" if one.serial else ""]))
        lines.append(
            f"| {one.name} | {count(one.rows)} | {one.partitions:,} | {size(one.moved)} | {size(one.stored)} "
            f"| {hours(one.gpu)} | {hours(one.core)} | {hours(one.wall(machines))} | {one.bottleneck(machines)} "
            f"| {said} | {note} |"
        )
    slowest = max(made, key=lambda one: one.wall(machines))
    whole = {key: sum(getattr(one, key) for one in made) for key in ("gpu", "core", "moved", "stored")}
    wall = sum(one.wall(machines) for one in made)
    lines += [
        (
            f"| **all** | | | {size(whole['moved'])} | {size(whole['stored'])} | {hours(whole['gpu'])} | "
            f"{hours(whole['core'])} | {hours(wall)} | {slowest.name}: {slowest.bottleneck(machines)} "
            f"| | one after another |"
        ),
        "",
        f"dedup and retrieval: {gpu_hours(made):,.0f} {machines.gpu.upper()}-hours; {published()}",
        *_prices(whole, prices),
        "",
        *_searches(pool, machines, costs),
        "",
        "| unit cost | value | unit | | source | commit |",
        "|---|---|---|---|---|---|",
        *(
            f"| {name} | {one.value:.4g} | {one.unit} | {one.kind} | {one.source} | {one.commit or '–'} |"
            for name, one in costs.of(tuple(name for stage in made for name in stage.uses))
        ),
    ]
    return "\n".join(lines)


def _prices(whole: Mapping[str, float], prices: Mapping[str, float]) -> list[str]:
    if not prices:
        return ["cost: give --price gpu=…, core=… (an hour) and storage=… (a TB-month)"]
    parts = {"gpu": whole["gpu"], "core": whole["core"], "storage": whole["stored"] / 1e12}
    paid = {name: parts[name] * price for name, price in prices.items()}
    said = ", ".join(f"{name} {value:,.0f}" for name, value in paid.items())
    missing = [name for name in parts if name not in prices]
    rest = f"; no price for {', '.join(missing)}" if missing else ""
    return [f"cost: {sum(paid.values()):,.0f} ({said}; storage a month){rest}"]


def _searches(pool: Pool, machines: Machines, costs: UnitCosts) -> list[str]:
    """Exact against inverted lists for the two large searches of this plan, with the sizes where they cross."""
    rate = costs["gpu_peak"] * machines.peak * costs["gpu_product"]
    kept, dim = pool.images * KEPT, ENCODERS[pool.encoder]
    lines = ["| search | exact, GPU h | inverted lists, GPU h | lists are cheaper above |", "|---|---|---|---|"]
    for name, queries, size_of, width, itself in (
        ("the pool among itself", pool.images, pool.images, COPY_DIM, True),
        ("seeds in the pool", pool.queries, kept, dim, False),
    ):
        one = search.exact(queries, size_of, width, rate, costs, itself=itself).seconds / 3600
        other = search.inverted(queries, size_of, width, rate, costs).seconds / 3600
        at = search.crossover(None if itself else queries, width, rate, costs)
        lines.append(f"| {name} | {hours(one)} | {hours(other)} | {count(at)} images |")
    costs.reset()
    return lines
