"""Copy edges: ordered pairs with a cosine above the search threshold.

The stage is ``dinov2_core/stages/copy_edges.py``; here are its asset and what must hold of its tables.
"""

from __future__ import annotations

from assets.factory import stage_asset
from assets.gates import error, table_check

copy_edges = stage_asset("copy_edges")

edges_check = table_check(
    "copy_edges",
    "edges",
    [
        error("ExpectColumnValuesToNotBeNull", column="a"),
        error("ExpectColumnValuesToNotBeNull", column="b"),
        error("ExpectCompoundColumnsToBeUnique", column_list=["a", "b"]),
        error("ExpectColumnValuesToBeBetween", column="similarity", min_value=0, max_value=1.01),
        error("ExpectColumnPairValuesAToBeGreaterThanB", column_A="b", column_B="a"),
    ],
)
