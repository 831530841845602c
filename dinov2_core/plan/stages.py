"""The work of every data stage at a size, from unit costs: rows, bytes, GPU-, core- and storage-hours.

Shares of what is kept are the DINOv2 paper's (1.3 billion → 744 million → 142 million). How it is shown is in ``page``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from dinov2_core.plan import search
from dinov2_core.plan.machines import Machines
from dinov2_core.plan.unit_costs import UnitCosts

KEPT, CURATED = 744 / 1300, 142.1 / 1300
SAMPLE_QUERIES = 14_197_086 + 1_281_167 + 1_580_470
"""Seeds that are sampled from: ImageNet-22k, ImageNet-1k and Google Landmarks v2 (paper, table 15)."""
CLUSTERS, POINTS_A_CLUSTER, ROUNDS = 100_000, 256, 20
COPY_DIM = 512
AFFORDABLE = 25 * 3600.0
"""Seconds of one GPU that a search may cost before recall is given up for them."""
SHARD, PARTITIONS = 10_000, 10_000
BATCH = 100_000
"""The least images of a crawl batch; more where there would be over ``PARTITIONS`` of them."""
ENCODERS = {"vitl14": 1024, "vith16": 1280}
"""Width of the retrieval embedding: the released ViT-L/14, and the paper's ViT-H/16."""
DEDUP_AND_RETRIEVAL = (
    "copy_embeddings",
    "copy_edges",
    "benchmark_edges",
    "deduplicated_set",
    "embeddings",
    "clusters",
    "curated_lvd",
)


@dataclass(frozen=True)
class StageCost:
    """``gpu`` and ``core`` are hours in all; ``moved`` bytes read and written, ``stored`` bytes that stay.

    ``serial``: one process does it, whatever the number of cores. ``uses``: the unit costs it was made from.
    """

    name: str
    rows: float
    gpu: float
    core: float
    moved: float
    stored: float
    uses: tuple[str, ...]
    partitions: int = 1
    serial: bool = False
    note: str = ""

    def hours(self, machines: Machines) -> dict[str, float]:
        """Hours that each resource alone would take on ``machines``."""
        return {
            "gpu": self.gpu / machines.gpus,
            "core": self.core if self.serial else self.core / machines.cores,
            "storage": self.moved / machines.storage_rate / 3600,
        }

    def wall(self, machines: Machines) -> float:
        return max(self.hours(machines).values())

    def bottleneck(self, machines: Machines) -> str:
        hours = self.hours(machines)
        return max(hours, key=lambda name: hours[name])


@dataclass(frozen=True)
class Pool:
    """What is asked: ``images`` that the crawl stored, ``references`` benchmark images, the retrieval ``encoder``."""

    images: float
    encoder: str = "vitl14"
    queries: float = SAMPLE_QUERIES
    references: float = 2e6

    @property
    def batch(self) -> float:
        return max(BATCH, math.ceil(self.images / PARTITIONS))

    @property
    def partitions(self) -> int:
        return max(1, math.ceil(self.images / self.batch))

    @property
    def shards(self) -> int:
        return math.ceil(self.images / SHARD)


def stages(pool: Pool, machines: Machines, costs: UnitCosts) -> list[StageCost]:
    """Every stage from the crawl to the curated set, in order."""
    costs.reset()
    n, kept, many = pool.images, pool.images * KEPT, pool.partitions
    dim = ENCODERS[pool.encoder]
    made: list[StageCost] = []

    def add(name: str, rows: float, *, gpu: float = 0.0, core: float = 0.0, read: float = 0.0, **rest: object) -> None:
        stored = float(rest.pop("stored", 0.0))  # type: ignore[arg-type]
        hours = {"gpu": gpu / 3600, "core": core / 3600}
        made.append(
            StageCost(name, rows, **hours, moved=read + stored, stored=stored, uses=costs.reset(), **rest)  # type: ignore[arg-type]
        )

    def rate() -> float:
        return costs["gpu_peak"] * machines.peak * costs["gpu_product"]

    def vectors(rows: float, width: int) -> float:
        return rows * (2 * width + costs["id_bytes"])

    pixels = n * costs["image_bytes"]
    add("raw_crawl", n, core=n / costs["fetch"] + n * costs["pack"], stored=pixels, partitions=many)
    screened = n * costs["verdict_bytes"]
    add("filtered_set", n, core=n * costs["screen"], read=n * costs["image_bytes"], stored=screened, partitions=many)
    add(
        "copy_embeddings",
        n,
        gpu=n * costs["copy_flop"] / (rate() * costs["copy_efficiency"]),
        core=n * costs["decode"],
        read=n * costs["image_bytes"],
        stored=vectors(n, COPY_DIM),
        partitions=many,
    )
    found = search.planned(n, n, COPY_DIM, rate(), costs, itself=True, affordable=AFFORDABLE)
    edges = n * costs["edges_an_image"]
    add(
        "copy_edges",
        n,
        gpu=found.seconds,
        read=2 * vectors(n, COPY_DIM),
        stored=edges * costs["edge_bytes"],
        partitions=many,
        note=found.kind,
    )
    found = search.planned(n, pool.references, COPY_DIM, rate(), costs, affordable=AFFORDABLE)
    add("benchmark_edges", n, gpu=found.seconds, read=vectors(n, COPY_DIM), partitions=many, note=found.kind)
    add(
        "deduplicated_set",
        n,
        core=n * costs["dedup_rows"] + edges * costs["components"],
        read=screened + edges * costs["edge_bytes"],
        stored=n * costs["verdict_bytes"],
        serial=True,
    )
    add(
        "embeddings",
        n,
        gpu=n * costs[f"{pool.encoder}_flop"] / (rate() * costs["embed_efficiency"]),
        core=n * costs["decode"],
        read=n * costs["image_bytes"],
        stored=vectors(n, dim),
        partitions=many,
    )
    clusters = min(CLUSTERS, kept / 3)
    work = 2 * clusters * dim * (ROUNDS * min(kept, POINTS_A_CLUSTER * clusters) + kept)
    add(
        "clusters",
        kept,
        gpu=work / (rate() * costs["assign_efficiency"]),
        core=kept * costs["select_rows"],
        read=2 * vectors(kept, dim),
        stored=kept * costs["id_bytes"],
        note="k-means by products",
    )
    found = search.planned(pool.queries, kept, dim, rate(), costs, affordable=AFFORDABLE)
    curated = n * CURATED
    add(
        "curated_lvd",
        curated,
        gpu=found.seconds,
        core=kept * costs["select_rows"] + curated * costs["pack"],
        read=vectors(kept, dim) + curated * costs["image_bytes"],
        stored=curated * costs["image_bytes"],
        note=found.kind,
    )
    return made


def published() -> str:
    """What the paper says of the same work."""
    return "the paper: 160 V100 for less than 2 days, at most 7,680 V100-hours, for dedup and retrieval"
