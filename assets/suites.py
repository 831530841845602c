"""What must hold of every table: one suite a table of a stage, as plain data.

``error`` blocks what is downstream, ``warn`` shows. Kinds are named after Great Expectations' classes where it has
one; how each is measured is in ``dinov2_core/gates``. What compares a batch with earlier ones is in ``drift.py``, what
must hold of a training in ``training_gates.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dinov2_core.gates.expectation import Expect, error, warn

SHA256 = "^[0-9a-f]{64}$"
FEW = 500
"""A component larger than this chains much of the pool together: its threshold does not fit these images."""


def filled(*columns: str, **settings: Any) -> list[Expect]:
    """No value is missing."""
    return [error("ExpectColumnValuesToNotBeNull", column=column, **settings) for column in columns]


def between(column: str, low: float | None = None, high: float | None = None, **settings: Any) -> Expect:
    """Values that are there lie in ``low … high``."""
    return error("ExpectColumnValuesToBeBetween", column=column, min_value=low, max_value=high, **settings)


def unique(*columns: str, **settings: Any) -> Expect:
    """A batch has each key once."""
    if len(columns) == 1:
        return error("ExpectColumnValuesToBeUnique", column=columns[0], **settings)
    return error("ExpectCompoundColumnsToBeUnique", column_list=list(columns), **settings)


def one_of(column: str, *values: str) -> Expect:
    """Values that are there are among ``values``."""
    return error("ExpectColumnValuesToBeInSet", column=column, value_set=list(values))


def matches(column: str, regex: str, **settings: Any) -> Expect:
    """Values that are there match ``regex``."""
    return error("ExpectColumnValuesToMatchRegex", column=column, regex=regex, **settings)


def refers(column: str, stage: str, table: str, key: str, **settings: Any) -> Expect:
    """Every value is a ``key`` of a row of ``table``; the stage '' is the table's own."""
    return error("ExpectColumnValuesToReferTo", column=column, to=(stage, table, key), **settings)


def covers(column: str, stage: str, table: str, key: str, **settings: Any) -> Expect:
    """Every ``key`` of ``table`` is a value here: nothing was lost on the way."""
    return error("ExpectColumnValuesToCover", column=column, to=(stage, table, key), **settings)


def located(**settings: Any) -> list[Expect]:
    """Each row says where its bytes lie."""
    return [
        *filled("shard", "offset", "length", **settings),
        between("offset", 0, **settings),
        between("length", 1, **settings),
    ]


def explained(kept: str = "^$", dropped: str = "^.") -> list[Expect]:
    """A verdict a row, a reason with every drop and none with what is kept."""
    return [
        *filled("keep", "reason"),
        matches("reason", kept, where={"keep": True}),
        matches("reason", dropped, where={"keep": False}),
    ]


def unit_vectors(*, of: Sequence[Expect] = ()) -> list[Expect]:
    """One unit vector an image."""
    return [*filled("image_id", "norm"), unique("image_id"), between("norm", 0.99, 1.01), *of]


def complete(stage: str, table: str, **settings: Any) -> list[Expect]:
    """The images are those of ``table``: none is new, none is lost."""
    return [
        refers("image_id", stage, table, "image_id", **settings),
        covers("image_id", stage, table, "image_id", **settings),
    ]


ROWS = error("ExpectTableRowCountToBeBetween", min_value=1)
KEPT = {"keep": True}
STORED = {"status": "stored"}
COSINE = (-1.01, 1.01)
HISTORY = (
    ROWS,
    *filled("step", "name", "value"),
    between("step", 0),
    between("value", -1e6, 1e6),
    unique("step", "name"),
)
LABELLED = (ROWS, *filled("image_id", "dataset", "split", "key"), matches("image_id", SHA256), *located())

_SUITES: Mapping[tuple[str, str], Sequence[Expect]] = {
    ("raw_crawl", "images"): (
        ROWS,
        *filled("url", "status", "reason"),
        one_of("status", "stored", "duplicate", "refused", "failed"),
        matches("image_id", SHA256),
        between("width", 1, 100_000),
        between("height", 1, 100_000),
        between("bytes", 1),
        *filled("image_id", "width", "height", "format", "bytes", where=STORED),
        *located(where=STORED),
        unique("image_id", where=STORED),
        refers("image_id", "", "images", "image_id", where={"status": "duplicate"}, to_where=STORED),
        matches("reason", "^$", where=STORED),
        matches("reason", "^.", where={"status": ("duplicate", "refused", "failed")}),
        warn("ExpectColumnProportionOfUniqueValuesToBeBetween", column="url", min_value=0.5),
    ),
    ("filtered_set", "verdicts"): (
        ROWS,
        *filled("image_id"),
        unique("image_id"),
        *complete("raw_crawl", "images", to_where=STORED),
        *explained(),
        *located(),
        *filled("width", "height", "mode", "pixel_sha256", where=KEPT),
        between("width", 1),
        between("height", 1),
        matches("pixel_sha256", SHA256),
        between("entropy", 0, 8.001),
        between("sharpness", 0),
        between("nsfw", 0, 1),
        between("faces.w", 1),
        between("faces.h", 1),
        between("faces.score", 0, 1),
        refers("duplicate_of", "", "verdicts", "image_id"),
        warn("ExpectColumnMeanToBeBetween", column="nsfw", max_value=0.3),
    ),
    ("copy_embeddings", "copy_embeddings"): unit_vectors(of=complete("filtered_set", "verdicts", to_where=KEPT)),
    ("copy_edges", "edges"): (
        *filled("a", "b", "similarity"),
        unique("a", "b"),
        error("ExpectColumnPairValuesAToBeGreaterThanB", column_A="b", column_B="a"),
        refers("a", "copy_embeddings", "copy_embeddings", "image_id"),
        refers("b", "copy_embeddings", "copy_embeddings", "image_id"),
        between("similarity", 0, 1.01),
    ),
    ("benchmark_sets", "labelled"): (
        *LABELLED,
        unique("dataset", "split", "key"),
        warn("ExpectColumnValuesToNotBeNull", column="label"),
    ),
    ("benchmark_sets", "copy_embeddings"): unit_vectors(of=[refers("image_id", "", "labelled", "image_id")]),
    ("benchmark_edges", "benchmark_edges"): (
        *filled("image_id", "benchmark", "benchmark_id", "similarity"),
        unique("image_id", "benchmark_id"),
        refers("image_id", "copy_embeddings", "copy_embeddings", "image_id"),
        refers("benchmark_id", "benchmark_sets", "copy_embeddings", "image_id"),
        refers("benchmark", "benchmark_sets", "labelled", "dataset"),
        between("similarity", 0, 1.01),
    ),
    ("deduplicated_set", "components"): (
        ROWS,
        *filled("image_id", "component", "size"),
        unique("image_id"),
        *complete("filtered_set", "verdicts", to_where=KEPT),
        refers("component", "", "components", "image_id"),
        unique("component", where=KEPT),
        *explained(dropped="^(copy|leak) of ."),
        *located(),
        between("size", 1),
        warn("ExpectColumnMaxToBeBetween", column="size", max_value=FEW),
    ),
    ("seed_sets", "labelled"): LABELLED,
    ("embeddings", "embeddings"): unit_vectors(of=complete("filtered_set", "verdicts", to_where=KEPT)),
    ("seed_embeddings", "embeddings"): unit_vectors(of=complete("seed_sets", "labelled")),
    ("clusters", "clusters"): (
        *filled("image_id", "cluster"),
        unique("image_id"),
        *complete("deduplicated_set", "components", to_where=KEPT),
        between("cluster", 0),
        refers("cluster", "", "centroids", "image_id"),
        between("similarity", *COSINE),
    ),
    ("clusters", "centroids"): (ROWS, *filled("image_id"), unique("image_id"), between("norm", 0, 1.01)),
    ("clusters", "tree"): (
        *filled("level", "cluster", "parent"),
        unique("level", "cluster"),
        *(between(column, 0) for column in ("level", "cluster", "parent")),
        refers("cluster", "", "centroids", "image_id", where={"level": 0}),
        covers("cluster", "", "centroids", "image_id", where={"level": 0}),
        error("ExpectParentsToExist"),
    ),
    ("curated_lvd", "selections"): (
        ROWS,
        *filled("image_id", "dataset", "mode", "rank"),
        one_of("mode", "as is", "sample", "cluster", "balanced"),
        between("rank", 0),
        between("similarity", *COSINE),
        refers(
            "image_id",
            "deduplicated_set",
            "components",
            "image_id",
            where={"mode": ("sample", "cluster", "balanced")},
            to_where=KEPT,
        ),
        refers("image_id", "seed_sets", "labelled", "image_id", where={"mode": "as is"}),
        *filled("seed_id", where={"mode": "sample"}),
        refers("seed_id", "seed_sets", "labelled", "image_id"),
        refers("cluster", "clusters", "centroids", "image_id", where={"mode": "cluster"}),
    ),
    ("curated_lvd", "packed"): (
        ROWS,
        *filled("image_id", "source"),
        unique("image_id"),
        refers("image_id", "", "selections", "image_id"),
        covers("image_id", "", "selections", "image_id"),
        *located(),
    ),
    ("curated_lvd", "composition"): (
        ROWS,
        *filled("dataset", "mode", "queries", "retrieved", "final"),
        unique("dataset", "mode"),
        covers("dataset", "", "selections", "dataset"),
        error("ExpectColumnPairValuesAToBeGreaterThanB", column_A="retrieved", column_B="final", or_equal=True),
        between("queries", 0),
        between("final", 0),
    ),
    ("preliminary_encoder", "history"): HISTORY,
    ("pretrained_checkpoint", "history"): HISTORY,
    ("distilled_checkpoints", "history"): HISTORY,
    ("evaluation_metrics", "metrics"): (
        ROWS,
        *filled("dataset", "protocol", "model", "metric", "value", "low", "high", "count"),
        unique("dataset", "protocol", "model", "metric"),
        between("value", -1, 1),
        error("ExpectColumnPairValuesAToBeGreaterThanB", column_A="high", column_B="low", or_equal=True),
        between("count", 1),
    ),
}

SUITES: Mapping[tuple[str, str], tuple[Expect, ...]] = {
    key: (error("ExpectTableSchemaToMatch"), *suite) for key, suite in _SUITES.items()
}
"""By stage and table. Every one begins with the schema, which is that of ``dinov2_core/tables.py``."""
OPTIONAL = frozenset({("clusters", "tree")})
"""Tables that a stage writes only when asked to."""
