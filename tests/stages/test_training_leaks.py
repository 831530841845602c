"""Images of the training set that show evaluation images are counted anew, whoever drew the set."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dinov2_core import manifest, model_card
from dinov2_core.shard_map import InlineShardMap
from dinov2_core.stage import StageRun
from dinov2_core.stages import registry, training_leaks
from dinov2_core.storage import Store
from tests.stages.learner import put

RULE = {"similarity": 0.8, "aligned_similarity": 0.5, "alignment": 0.9, "trade": 0.0}


def image(number: int) -> str:
    return f"{number:064x}"


def run(store: Store, packed: list[int]) -> StageRun:
    """A run that sees a training set of these images."""
    edges = [(3, 0.9, None), (4, 0.6, 0.95), (5, 0.6, 0.5), (6, 0.7, None)]
    put(store, "curated_lvd", packed=[{"image_id": image(i), "source": "s"} for i in packed])
    put(store, "benchmark_sets", copy_embeddings=[{"image_id": image(1), "embedding": np.zeros(512, np.float16)}])
    put(
        store,
        "deduplicated_set",
        components=[
            {"image_id": image(i), "component": image(i), "size": 1, "keep": i == 7, "reason": reason}
            for i, reason in ((2, "leak of cifar10"), (7, ""), (8, "copy of 7"))
        ],
    )
    put(
        store,
        "benchmark_edges",
        "b1",
        benchmark_edges=[
            {
                "image_id": image(i),
                "benchmark": "cifar10",
                "benchmark_id": image(99),
                "similarity": similarity,
                "alignment": alignment,
            }
            for i, similarity, alignment in edges
        ],
    )
    made = manifest.read(store, "deduplicated_set")
    assert made is not None
    manifest.write(store, replace(made, counts={"benchmark_rule": RULE}))
    stages = {"curated_lvd": "all", "benchmark_sets": "all", "deduplicated_set": "all", "benchmark_edges": "b1"}
    found = [manifest.read(store, name, partition) for name, partition in stages.items()]
    upstream = {one.key: one for one in found if one is not None}
    spec = registry.get("registered_model")
    return StageRun(spec, store, "all", None, "f", upstream, InlineShardMap(), lambda step, metrics: None)


def test_each_leak_is_counted_once_under_its_first_reason(store: Store) -> None:
    # 3 by similarity alone, 4 by its pixels; 5's pixels and 6's missing ones confirm nothing.
    found = training_leaks.count(run(store, [1, 2, 3, 4, 5, 6, 7, 7, 8]), 1 << 20)
    assert found == {"identical": 1, "dropped": 1, "close": 2}


def test_a_clean_set_has_none(store: Store) -> None:
    assert sum(training_leaks.count(run(store, [5, 6, 7, 10]), 1 << 20).values()) == 0


def test_how_much_memory_there_is_changes_no_count(store: Store) -> None:
    one = run(store, list(range(1, 9)))
    assert training_leaks.count(one, 1) == training_leaks.count(one, 1 << 30)


def test_the_card_escapes_what_data_may_have_called_itself() -> None:
    card = model_card.write(
        model_card.Facts(
            name="<script>",
            licence="Apache-2.0",
            model={"depth": 1, "dim": 2, "patch": 3},
            preprocessing={"size": 4},
            parameters=5,
            composition=[dict.fromkeys(("task", "dataset", "queries", "mode", "retrieved", "final"), "a|b\n<i>")],
            images=6,
            metrics=[],
            leaks={"identical": 0},
            manifests={"curated_lvd/all": "ab"},
        )
    )
    assert "<script>" not in card
    assert "<i>" not in card
    assert "a\\|b &lt;i>" in card
