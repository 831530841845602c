"""A stage is computed once for the same inputs, and a killed one goes on where it stopped."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dinov2_core import manifest, stage
from dinov2_core.errors import ConfigError, DamagedDataError, UserError
from dinov2_core.shard_map import ProcessShardMap
from dinov2_core.storage import Store
from tests import toy_stages as toy


@pytest.fixture(autouse=True)
def _reset() -> Iterator[None]:
    yield
    toy.STOP.clear()
    toy.EXTERNAL["state"] = "a"


def calls(store: Store) -> int:
    return len(store.find("calls"))


def test_the_second_run_computes_nothing(store: Store) -> None:
    first = stage.materialise(store, toy.SPEC, "b1")
    second = stage.materialise(store, toy.SPEC, "b1")
    assert (first.fresh, second.fresh, calls(store)) == (True, False, 4)
    assert first.manifest == second.manifest
    assert first.manifest.counts == {"sum": 6}
    assert [f.rows for f in first.manifest.table("numbers")] == [1, 1, 1, 1]
    assert first.manifest.schemas == {"numbers": "value: int64"}


@pytest.mark.parametrize(
    ("change", "fresh"),
    [({"factor": 2}, True), ({"workers": 7}, False), ({"count": 4}, False)],
)
def test_quality_settings_make_a_new_version_and_efficiency_settings_do_not(
    store: Store, change: dict[str, int], fresh: bool
) -> None:
    stage.materialise(store, toy.SPEC, "b1")
    assert stage.materialise(store, toy.SPEC, "b1", change).fresh is fresh


def test_a_changed_external_input_makes_a_new_version(store: Store) -> None:
    stage.materialise(store, toy.SPEC, "b1")
    toy.EXTERNAL["state"] = "b"
    assert stage.materialise(store, toy.SPEC, "b1").fresh


def test_a_stopped_run_keeps_its_finished_shards_and_ends_with_the_same_manifest(
    store: Store, tmp_path: object
) -> None:
    undisturbed = stage.materialise(Store(f"{tmp_path}/other"), toy.SPEC, "b1").manifest
    toy.STOP["at"] = "002"
    with pytest.raises(KeyboardInterrupt):
        stage.materialise(store, toy.SPEC, "b1")
    assert manifest.read(store, "numbers", "b1") is None
    toy.STOP.clear()
    resumed = stage.materialise(store, toy.SPEC, "b1").manifest
    assert calls(store) == 4, "shards 000 and 001 were not computed again"
    assert resumed.to_json() == undisturbed.to_json()
    assert not [p for p in store.find("numbers") if ".progress" in p]


def test_processes_give_the_same_manifest_as_this_process(store: Store, tmp_path: object) -> None:
    one = stage.materialise(store, toy.SPEC, "b1")
    two = stage.materialise(Store(f"{tmp_path}/other"), toy.SPEC, "b1", shard_map=ProcessShardMap(2))
    assert one.manifest.to_json() == two.manifest.to_json()


def test_a_new_batch_renews_the_whole_and_nothing_else(store: Store) -> None:
    stage.materialise(store, toy.SPEC, "b1")
    first = stage.materialise(store, toy.TOTAL)
    assert not stage.materialise(store, toy.TOTAL).fresh
    stage.materialise(store, toy.SPEC, "b2", {"factor": 10})
    second = stage.materialise(store, toy.TOTAL)
    assert (first.manifest.counts["total"], second.manifest.counts["total"]) == (6, 66)
    assert not stage.materialise(store, toy.SPEC, "b1").fresh
    assert set(second.manifest.upstream) == {"numbers/b1", "numbers/b2"}


def test_earlier_means_batches_that_sort_before(store: Store) -> None:
    for name in ("b1", "b2"):
        stage.materialise(store, toy.SPEC, name)
    assert stage.materialise(store, toy.EARLIER, "b1").manifest.counts["total"] == 6
    assert stage.materialise(store, toy.EARLIER, "b2").manifest.counts["total"] == 12
    stage.materialise(store, toy.SPEC, "b3")
    assert not stage.materialise(store, toy.EARLIER, "b2").fresh, "a later batch does not disturb an earlier one"


def test_missing_upstream_and_unknown_settings_say_what_to_do(store: Store) -> None:
    with pytest.raises(UserError, match="total: 'numbers' has not been materialised — materialise numbers first"):
        stage.materialise(store, toy.TOTAL)
    with pytest.raises(ConfigError, match=r"unknown setting 'facter' \(did you mean 'factor'\?\)"):
        stage.materialise(store, toy.SPEC, "b1", {"facter": 1})
    with pytest.raises(ConfigError, match=r"numbers\.factor: expected int, got 'two'"):
        stage.materialise(store, toy.SPEC, "b1", {"factor": "two"})


def test_a_whole_made_of_stale_or_missing_parts_is_refused(store: Store) -> None:
    stage.materialise(store, toy.SPEC, "b1")
    stage.materialise(store, toy.SPEC, "b2")
    stage.materialise(store, toy.EARLIER, "b1")
    with pytest.raises(UserError, match=r"both: 'earlier\[b2\]' has not been materialised"):
        stage.materialise(store, toy.BOTH)
    stage.materialise(store, toy.EARLIER, "b2")
    stage.materialise(store, toy.BOTH)
    stage.materialise(store, toy.SPEC, "b1", {"factor": 3})
    with pytest.raises(UserError, match="'earlier/b1' is stale: 'numbers/b1' has changed"):
        stage.materialise(store, toy.BOTH)


def test_a_lost_file_is_made_again(store: Store) -> None:
    made = stage.materialise(store, toy.SPEC, "b1").manifest
    store.delete(made.files[1].path)
    again = stage.materialise(store, toy.SPEC, "b1")
    assert again.fresh
    assert again.manifest == made


def test_a_damaged_manifest_is_named(store: Store) -> None:
    stage.materialise(store, toy.SPEC, "b1")
    store.write_bytes("numbers/b1/manifest.json", b"{")
    with pytest.raises(DamagedDataError, match=r"numbers/b1/manifest\.json.*materialise numbers"):
        stage.materialise(store, toy.TOTAL)


def test_a_manifest_is_its_hash(store: Store) -> None:
    made = stage.materialise(store, toy.SPEC, "b1").manifest
    read = manifest.read(store, "numbers", "b1")
    assert read is not None
    assert read.hash == made.hash
    assert read.params == {"count": 4, "factor": 1}
