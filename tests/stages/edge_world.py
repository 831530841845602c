"""Two batches of images of which only ids and edges are made up: what ``deduplicated_set`` reads, without pixels."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from dinov2_core import tables
from dinov2_core.storage import Store
from tests.gates.toy import image
from tests.pictures import finished

BATCHES = ("b1", "b2")
IMAGES = 150
"""In each batch."""


def write(store: Store, *, k: int = 3) -> None:
    """Chains, stars that ``k`` cuts, edges below the threshold, and one leak."""
    rng = np.random.default_rng(0)
    names = [image(number) for number in range(2 * IMAGES)]
    pairs = {(int(a), int(b)) for a, b in rng.integers(0, 2 * IMAGES, (130, 2)) if a < b}
    pairs |= {(7, int(other)) for other in rng.permutation(np.arange(8, 2 * IMAGES))[:20]}
    rows = [
        {"a": min(names[a], names[b]), "b": max(names[a], names[b]), "similarity": float(score), "alignment": None}
        for (a, b), score in zip(sorted(pairs), np.round(rng.uniform(0.5, 1, len(pairs)), 3), strict=True)
    ]
    leak = {"image_id": names[0], "benchmark": "bench", "benchmark_id": image("bench"), "similarity": 0.8}
    for number, batch in enumerate(BATCHES):
        own = names[number * IMAGES : (number + 1) * IMAGES]
        verdicts = [
            {"image_id": name, "keep": True, "reason": "", "width": 32 + i % 5, "height": 32, "shard": "s.tar"}
            | {"offset": 512 * i, "length": 100 + i}
            for i, name in enumerate(own)
        ]
        for stage, table, found, params in (
            ("filtered_set", "verdicts", verdicts, {}),
            ("copy_edges", "edges", rows[number::2], {"k": k, "threshold": 0.5}),
            ("benchmark_edges", "benchmark_edges", [] if number else [leak], {"k": 64, "threshold": 0.45}),
        ):
            made: pa.Table = tables.from_rows(found, tables.schema(table, dim=1))
            record = store.write_table(f"{stage}/{batch}/{table}-x-00000.parquet", made)
            finished(store, stage, batch, [record], **params)
        finished(store, "copy_embeddings", batch, [])
