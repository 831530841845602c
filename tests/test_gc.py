"""``dinov2 gc`` frees what nobody refers to, and nothing else: versions, models, runs under way, fresh files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dinov2_core import cli, gc, kept, locks, manifest, stage
from dinov2_core.kept import Kept
from dinov2_core.stages import registry
from dinov2_core.storage import Store
from tests import toy_stages as toy

HOUR = 3600.0
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The toy stages are the whole graph; their files are older than any grace."""
    monkeypatch.setattr(registry, "STAGES", {"numbers": toy.SPEC, "total": toy.TOTAL})
    yield
    toy.STOP.clear()
    toy.EXTERNAL["state"] = "a"


def age(store: Store, hours: float = 48) -> None:
    """Make every file of the store ``hours`` old."""
    when = time.time() - hours * HOUR
    for path in Path(store.base).rglob("*"):
        os.utime(path, (when, when))


def make(store: Store, factor: int) -> dict[str, str]:
    """Bring both stages up to date; the hashes by stage."""
    one = stage.materialise(store, toy.SPEC, "b1", {"factor": factor}).manifest
    two = stage.materialise(store, toy.TOTAL).manifest
    return {"numbers": one.hash, "total": two.hash}


def files(store: Store) -> set[str]:
    return {p for p in store.find("") if p.startswith(("numbers/", "total/"))}


def test_an_old_version_is_freed_and_the_present_one_is_whole(store: Store) -> None:
    make(store, 1)
    old = files(store)
    present = make(store, 2)
    age(store)
    before = files(store)
    planned = gc.plan(store, [], time.time())
    assert files(store) == before, "a plan touches nothing"
    done = gc.free(store, [], time.time())
    assert done == planned
    assert planned.files == 5, "four numbers and their sum"
    assert planned.bytes > 0
    assert files(store) & old == {"numbers/b1/manifest.json", "total/all/manifest.json"}
    assert make(store, 2) == present
    for one in ("numbers", "total"):
        found = manifest.read(store, one, "b1" if one == "numbers" else "all")
        assert found is not None
        for record in found.files:
            store.verify(record)


def test_what_a_kept_version_was_made_from_is_kept_with_it(store: Store) -> None:
    first = make(store, 1)
    old = files(store)
    make(store, 2)
    middle = files(store) - old
    make(store, 3)
    age(store)
    gc.free(store, [Kept(first["total"], "total", "a model")], time.time())
    assert old <= files(store), "the sum and, through it, the numbers"
    assert not middle & files(store)


def test_a_stale_sum_still_has_the_numbers_it_was_made_from(store: Store) -> None:
    make(store, 1)
    old = files(store)
    stage.materialise(store, toy.SPEC, "b1", {"factor": 2})
    age(store)
    assert gc.free(store, [], time.time()).files == 0
    assert old <= files(store)


def test_a_version_that_is_not_known_protects_its_stage_and_all_upstream(store: Store) -> None:
    make(store, 1)
    make(store, 2)
    age(store)
    planned = gc.plan(store, [Kept("f" * 64, "total", "a commit")], time.time())
    assert planned.files == 0
    assert set(planned.left) == {"numbers", "total"}
    assert "a commit needs version ffffffffffff" in planned.left["numbers"]
    planned = gc.plan(store, [Kept("f" * 64, "numbers", "a commit")], time.time())
    assert [one.place for one in planned.garbage] == [("total", "all")], "what is downstream is not concerned"


def test_fresh_files_and_the_state_of_a_run_killed_lately_are_safe(store: Store) -> None:
    make(store, 1)
    make(store, 2)
    age(store, hours=2)
    assert gc.plan(store, [], time.time()).files == 0
    assert gc.plan(store, [], time.time(), grace=HOUR).files == 5
    toy.STOP["at"] = "002"
    with pytest.raises(KeyboardInterrupt):
        stage.materialise(store, toy.SPEC, "b1", {"factor": 3})
    planned = gc.plan(store, [], time.time(), grace=HOUR)
    assert [one.place for one in planned.garbage] == [("total", "all")]
    age(store)
    planned = gc.plan(store, [], time.time())
    numbers = next(one.files for one in planned.garbage if one.place == ("numbers", "b1"))
    assert [gc.SCRATCH in f.path for f in numbers] == [True] * 2 + [False] * 6, "markers go before what they vouch for"


def test_what_a_killed_writer_left_is_garbage(store: Store) -> None:
    make(store, 1)
    code = f"""
        import os, signal
        from dinov2_core.storage import Store
        with Store({store.root!r}).create("numbers/b1/half.tar") as f:
            f.write(b"half a file")
            f.inner.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    age(store)
    (one,) = gc.free(store, [], time.time()).garbage
    assert one.bytes == len(b"half a file")
    assert not [e for e in store.listing("numbers") if ".tmp-" in e.path]


def test_a_run_under_way_is_never_raced(store: Store) -> None:
    """A run begins, gc comes, the run goes on; then a run wants to begin while gc holds its partition."""
    make(store, 1)
    make(store, 2)
    age(store)
    inside, go_on = threading.Event(), threading.Event()

    def slow_total(run: stage.StageRun) -> dict[str, int]:
        run.read("numbers", "numbers")
        inside.set()
        assert go_on.wait(30)
        return toy.total(run)

    toy.slow_total = slow_total  # type: ignore[attr-defined]
    slow = stage.StageSpec(**{**vars(toy.TOTAL), "run": "tests.toy_stages:slow_total"})
    run = threading.Thread(target=stage.materialise, args=(store, slow), kwargs={"force": True})
    run.start()
    assert inside.wait(30)
    planned = gc.plan(store, [], time.time())
    assert set(planned.left.values()) == {"total/all is being made"}
    assert gc.free(store, [], time.time()).files == 0, "neither what it writes nor what it may be reading"
    go_on.set()
    run.join()
    with locks.partition_lock(store, "numbers", "b1", wait=False) as held:
        assert held
        late = threading.Thread(target=make, args=(store, 1))
        late.start()
        late.join(0.5)
        assert late.is_alive(), "whoever begins while the partition is being cleaned waits"
    late.join(30)
    assert gc.plan(store, [], time.time()).left == {}


def git(folder: Path, *arguments: str) -> None:
    settings = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main")
    subprocess.run(["git", *settings, *arguments], cwd=folder, check=True, capture_output=True)


def test_commits_and_pins_keep_versions_and_the_command_says_so(
    tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "metrics").mkdir()
    git(tmp_path, "init", "-q")
    known = []
    for factor in (1, 2, 3, 4, 5):
        made = make(store, factor)
        known.append(made)
        if factor <= 2:
            body = {"manifest": {"all": made["total"]}, "total": factor}
            (tmp_path / "metrics" / "total.json").write_text(json.dumps(body))
            git(tmp_path, "add", "metrics")
            git(tmp_path, "commit", "-q", "-m", f"v{factor}")
    kept.pin(store, "model-dinov2-1", Kept(known[2]["total"], "total", "model dinov2 version 1"))
    age(store)
    named = {one.hash for one in kept.committed(tmp_path) or ()}
    assert named == {known[0]["total"], known[1]["total"]}
    assert {one.hash for one in kept.committed(tmp_path, "tips") or ()} == {known[1]["total"]}
    assert kept.committed(tmp_path.parent.parent) is None

    before = files(store)
    arguments = ["gc", "--root", store.root, "--repo", str(tmp_path)]
    assert cli.main(arguments) == 0
    said = capsys.readouterr().out
    assert "1 pinned by registered models, 2 named by commits" in said
    assert "to free: 5 files" in said, "of the version that only a run knows"
    assert "--yes" in said
    assert files(store) == before
    assert cli.main([*arguments, "--yes"]) == 0
    assert "deleted 5 files" in capsys.readouterr().out
    for made, there in zip(known, (True, True, True, False, True), strict=True):
        one = manifest.by_hash(store, made["total"])
        assert (one is not None and all(store.exists(f.path) for f in one.files)) is there
    assert manifest.by_hash(store, known[3]["total"]) is None, "its name goes with it"
    kept.unpin(store, "model-dinov2-1")
    assert gc.plan(store, kept.committed(tmp_path) or (), time.time()).files == 5


def test_git_that_does_not_answer_stops_the_command(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cli.main(["gc", "--root", store.root, "--repo", str(tmp_path), "--yes"]) == 1
    assert "git cannot be run" in capsys.readouterr().err


def test_pins_follow_the_model_registry(store: Store) -> None:
    from pipelines import gc as pipelines_gc

    class Version:
        def __init__(self, number: int) -> None:
            self.version, self.tags = number, {"manifest": str(number) * 64}

    versions = [Version(1), Version(2)]

    class Tracking:
        model_name = "dinov2"

        def client(self) -> Tracking:
            return self

        def search_model_versions(self, query: str) -> list[Version]:
            assert query == "name = 'dinov2'"
            return versions

    kept.pin(store, "other-1", Kept("f" * 64, "registered_model", "another registry's"))
    assert pipelines_gc.compare(store, Tracking()) == (["dinov2-1", "dinov2-2"], [])  # type: ignore[arg-type]
    del versions[0]
    assert pipelines_gc.compare(store, Tracking()) == ([], ["dinov2-1"])  # type: ignore[arg-type]
    assert {name: pin.hash[0] for name, pin in kept.pins(store).items()} == {"dinov2-2": "2", "other-1": "f"}
