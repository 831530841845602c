"""The schemas of every table, in one place.

A table is a set of Parquet part files ``NAME-….parquet`` in a stage's folder, listed by its manifest. Every table
joins on ``image_id``, the sha256 (hex) of an image's original bytes. ``shard, offset, length`` say where the bytes
to use lie: a tar's path relative to the data root and the byte range inside it. How tables are made or read in
bulk does not belong here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

LOCATION = [("shard", pa.string()), ("offset", pa.int64()), ("length", pa.int64())]
FACE = pa.struct([("x", pa.int32()), ("y", pa.int32()), ("w", pa.int32()), ("h", pa.int32()), ("score", pa.float32())])


def embedding_type(dim: int) -> pa.DataType:
    """A vector column: float16, fixed width."""
    return pa.list_(pa.float16(), dim)


def _embeddings(dim: int) -> pa.Schema:
    return pa.schema([("image_id", pa.string()), ("embedding", embedding_type(dim))])


IMAGES = pa.schema(
    [
        ("image_id", pa.string()),  # null where nothing was stored
        ("url", pa.string()),
        ("page", pa.string()),
        ("alt", pa.string()),
        ("status", pa.string()),  # stored | duplicate | refused | failed
        ("reason", pa.string()),  # empty where stored
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("format", pa.string()),
        ("bytes", pa.int64()),
        *LOCATION,
    ]
)
"""raw_crawl: one row an image reference found, stored or not."""

VERDICTS = pa.schema(
    [
        ("image_id", pa.string()),
        ("keep", pa.bool_()),
        ("reason", pa.string()),  # empty where kept
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("mode", pa.string()),
        ("pixel_sha256", pa.string()),
        ("pca_hash", pa.binary()),
        ("duplicate_of", pa.string()),
        ("entropy", pa.float32()),
        ("sharpness", pa.float32()),
        ("nsfw", pa.float32()),
        ("faces", pa.list_(FACE)),
        *LOCATION,  # of the blurred bytes where a face was found
    ]
)
"""filtered_set: one row an image seen, with the verdict, its reason and every score."""

COPY_EMBEDDINGS = _embeddings(512)
EDGES = pa.schema([("a", pa.string()), ("b", pa.string()), ("similarity", pa.float32()), ("alignment", pa.float32())])
"""copy_edges: a < b as text; one row a pair. ``alignment``: correlation of the aligned pixels, null if not computed."""
BENCHMARK_EDGES = pa.schema(
    [
        ("image_id", pa.string()),
        ("benchmark", pa.string()),
        ("benchmark_id", pa.string()),
        ("similarity", pa.float32()),
        ("alignment", pa.float32()),
    ]
)
COMPONENTS = pa.schema(
    [
        ("image_id", pa.string()),
        ("component", pa.string()),  # the smallest image_id of the component
        ("size", pa.int32()),
        ("keep", pa.bool_()),
        ("reason", pa.string()),  # '' | copy of … | leak of …
        *LOCATION,
    ]
)
"""deduplicated_set: one row an image that passed the filter."""

LABELLED = pa.schema(
    [
        ("image_id", pa.string()),
        ("dataset", pa.string()),
        ("split", pa.string()),
        ("label", pa.string()),  # null where unlabelled
        ("key", pa.string()),  # the image's name inside its set
        *LOCATION,
    ]
)
"""seed_sets and benchmark_sets: one row an image of a curated or evaluation set."""

CLUSTERS = pa.schema([("image_id", pa.string()), ("cluster", pa.int32()), ("similarity", pa.float32())])
CLUSTER_TREE = pa.schema([("level", pa.int32()), ("cluster", pa.int32()), ("parent", pa.int32())])
"""clusters: the parent (a cluster of level + 1) of each cluster of a level, 0 the finest."""
SELECTIONS = pa.schema(
    [
        ("image_id", pa.string()),
        ("dataset", pa.string()),  # the seed set that asked for it
        ("mode", pa.string()),  # as is | sample | cluster | balanced
        ("seed_id", pa.string()),  # sample mode: the query
        ("cluster", pa.int32()),  # cluster mode: the cluster, else -1
        ("similarity", pa.float32()),
        ("rank", pa.int32()),
    ]
)
"""curated_lvd: one row a draw; an image drawn twice has two rows (as the paper's table 15 counts)."""
COMPOSITION = pa.schema(
    [
        ("task", pa.string()),
        ("dataset", pa.string()),
        ("queries", pa.int64()),
        ("mode", pa.string()),
        ("retrieved", pa.int64()),
        ("final", pa.int64()),
    ]
)
"""curated_lvd: the form of the paper's table 15."""
PACKED = pa.schema([("image_id", pa.string()), ("source", pa.string()), *LOCATION])
"""curated_lvd: the training set, one row an image, located in its training shards."""
HISTORY = pa.schema([("step", pa.int64()), ("name", pa.string()), ("value", pa.float64())])
METRICS = pa.schema(
    [
        ("dataset", pa.string()),
        ("protocol", pa.string()),
        ("model", pa.string()),  # trained | untrained | pixels
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("low", pa.float64()),  # 95 % bootstrap interval
        ("high", pa.float64()),
        ("count", pa.int64()),
    ]
)

SCHEMAS: Mapping[str, pa.Schema] = {
    "images": IMAGES,
    "verdicts": VERDICTS,
    "copy_embeddings": COPY_EMBEDDINGS,
    "edges": EDGES,
    "benchmark_edges": BENCHMARK_EDGES,
    "components": COMPONENTS,
    "labelled": LABELLED,
    "clusters": CLUSTERS,
    "tree": CLUSTER_TREE,
    "selections": SELECTIONS,
    "composition": COMPOSITION,
    "packed": PACKED,
    "history": HISTORY,
    "metrics": METRICS,
}
"""Tables by name. ``embeddings`` and ``centroids`` have the width of their encoder: see :func:`schema`."""
VECTORS = ("embeddings", "centroids")
"""Tables of vectors as wide as the encoder made them; the ``image_id`` of a centroid is its cluster's number."""

NAMED_BY: Mapping[str, tuple[str, ...]] = {
    "images": ("image_id", "url"),
    "verdicts": ("image_id",),
    "copy_embeddings": ("image_id",),
    "edges": ("a", "b"),
    "benchmark_edges": ("image_id", "benchmark_id"),
    "components": ("image_id",),
    "labelled": ("dataset", "split", "key"),
    "embeddings": ("image_id",),
    "centroids": ("image_id",),
    "clusters": ("image_id",),
    "tree": ("level", "cluster"),
    "selections": ("image_id", "dataset", "mode"),
    "composition": ("dataset", "mode"),
    "packed": ("image_id",),
    "history": ("step", "name"),
    "metrics": ("dataset", "protocol", "model", "metric"),
}
"""The columns by which a row of each table is named to a person. All but those of ``images`` are keys or nearly so."""


def schema(name: str, *, dim: int | None = None) -> pa.Schema:
    """The schema of table ``name``; ``dim`` is the width of one of :data:`VECTORS`."""
    if name in VECTORS:
        if dim is None:
            raise ValueError(f"the table {name} needs its width")
        return _embeddings(dim)
    return SCHEMAS[name]


def from_rows(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows as a table; a missing key is null, an unknown key is an error."""
    unknown = {key for row in rows for key in row} - set(schema.names)
    if unknown:
        raise ValueError(f"columns not in the schema: {sorted(unknown)}")
    return pa.Table.from_pylist([dict(row) for row in rows], schema=schema)
