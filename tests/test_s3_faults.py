"""An S3 server that refuses in bursts, goes away, keeps halves and is written to by two at once."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from dinov2_core import gc, leases, locks, manifest, object_store, stage
from dinov2_core.errors import DamagedDataError, UserError
from dinov2_core.stages import registry
from dinov2_core.storage import Store
from tests import toy_stages as toy
from tests.elsewhere import complaints, elsewhere
from tests.flaky_proxy import Bursts, in_front_of
from tests.weed import BUCKET, Weed, environment

pytestmark = [pytest.mark.s3, pytest.mark.slow]


@pytest.fixture(autouse=True)
def server(weed: Weed) -> Iterator[Weed]:
    with environment({**weed.env, "AWS_MAX_ATTEMPTS": "3"}):
        yield weed


@pytest.fixture
def s3(request: pytest.FixtureRequest) -> Store:
    return Store(f"s3://{BUCKET}/{request.node.name}")


def test_bursts_of_503_are_waited_out_and_nothing_is_lost_or_double(weed: Weed) -> None:
    undisturbed = Store("memory://undisturbed")
    wanted = {name: stage.materialise(undisturbed, toy.SPEC, name).manifest.to_json() for name in ("b1", "b2")}
    with in_front_of(weed.ports["s3"], Bursts()) as bursts:
        ended = elsewhere(
            f"""
            from dinov2_core import stage
            from dinov2_core.storage import Store
            from tests import toy_stages as toy
            store = Store("s3://{BUCKET}/bursts")
            for name in ("b1", "b2"):
                print(stage.materialise(store, toy.SPEC, name).manifest.hash)
            store.write_bytes("large", bytes(40 << 20))
            """,
            AWS_ENDPOINT_URL=bursts.url,
            AWS_MAX_ATTEMPTS="8",
        )
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert bursts.refused > 3
    store = Store(f"s3://{BUCKET}/bursts")
    for name, text in wanted.items():
        assert store.read_bytes(manifest.path_of("numbers", name)).decode() == text
    assert len(store.find("calls")) == 8, "each shard once"
    assert store.size("large") == 40 << 20
    assert object_store.unfinished(store.fs, store.base) == []


def test_a_server_that_is_gone_is_one_clear_line(s3: Store) -> None:
    actions = ("write_bytes('x', b'1')", "read_bytes('x')", "read_table('x')", "exists('x')", "find('')")
    gone = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"}
    for line in complaints(s3.root, actions, **gone):
        assert s3.root in line
        assert "the network" in line


def test_of_two_writers_who_both_want_to_be_first_one_is(s3: Store) -> None:
    won, lost = [], []

    def write(number: int) -> None:
        try:
            s3.write_bytes("first", str(number).encode(), exclusive=True)
            won.append(number)
        except FileExistsError:
            lost.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert len(lost) == 3
    assert s3.read_bytes("first") == str(won[0]).encode()
    with pytest.raises(FileExistsError), s3.create("first", exclusive=True) as f:
        f.write(bytes(20 << 20))
    assert s3.size("first") == 1, "in parts as well"


def test_a_second_run_of_a_partition_waits_and_a_dead_ones_lease_is_taken(
    s3: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "POLL", 0.1)
    with locks.partition_lock(s3, "numbers", "b1") as held:
        assert held
        assert locks.busy(s3) == [("numbers", "b1")]
        with locks.partition_lock(s3, "numbers", "b1", wait=False) as second:
            assert not second
        done = threading.Event()

        def wait() -> None:
            with locks.partition_lock(s3, "numbers", "b1"):
                done.set()

        waiting = threading.Thread(target=wait)
        waiting.start()
        assert not done.wait(0.5)
    waiting.join(20)
    assert done.is_set()
    assert locks.busy(s3) == []
    ended = elsewhere(f"""
        import os, signal
        from dinov2_core import locks
        from dinov2_core.storage import Store
        with locks.partition_lock(Store({s3.root!r}), "numbers", "b2"):
            os.kill(os.getpid(), signal.SIGKILL)
    """)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert s3.find(".locks") == [".locks/numbers/b2"]
    assert locks.busy(s3) == []
    with locks.partition_lock(s3, "numbers", "b2", wait=False) as held:
        assert held


def test_a_lease_of_another_machine_ends_by_the_stores_clock(s3: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    body = {"token": "theirs", "host": "elsewhere", "pid": 1, "start": ["1"]}
    s3.write_bytes(".locks/numbers/b1", json.dumps(body).encode())
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert locks.busy(s3) == [("numbers", "b1")], "whatever this machine's clock says"
    monkeypatch.setattr(leases, "TTL", -1.0)
    assert locks.busy(s3) == []


def test_the_upload_of_a_killed_writer_is_freed_by_gc_after_its_grace(
    s3: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "STAGES", {"numbers": toy.SPEC, "total": toy.TOTAL})
    stage.materialise(s3, toy.SPEC, "b1")
    stage.materialise(s3, toy.SPEC, "b1", {"factor": 2})
    ended = elsewhere(f"""
        import os, signal
        from dinov2_core.storage import Store
        with Store({s3.root!r}).create("numbers/b1/half.tar") as f:
            f.write(bytes(40 << 20))
            os.kill(os.getpid(), signal.SIGKILL)
    """)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    (one,) = object_store.unfinished(s3.fs, s3.base)
    assert one.path == f"{s3.base}/numbers/b1/half.tar"
    assert gc.plan(s3, [], time.time()).uploads == (), "its writer may still be at work elsewhere"
    done = gc.free(s3, [], time.time() + 60, grace=0.0)
    assert [u.path for u in done.uploads] == [one.path]
    assert done.files == 4, "and the numbers of the first version"
    assert object_store.unfinished(s3.fs, s3.base) == []
    assert not stage.materialise(s3, toy.SPEC, "b1", {"factor": 2}).fresh


def test_writing_takes_the_memory_of_some_parts_whatever_the_size(s3: Store) -> None:
    ended = elsewhere(f"""
        import resource
        from dinov2_core.storage import Store
        store = Store({s3.root!r})
        peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        store.write_bytes("warm", bytes(20 << 20))
        before = peak()
        with store.create("large") as f:
            for _ in range(320):
                f.write(bytes(1 << 20))
        with store.open("large") as f:
            while f.read(1 << 20):
                pass
        print(peak() - before)
    """)
    assert ended.returncode == 0, ended.stderr[-1500:]
    assert int(ended.stdout) < 120, "MiB, for a file of 320"


def test_damage_is_damage_and_a_refusal_is_none(s3: Store) -> None:
    s3.write_bytes("t.parquet", b"no table")
    with pytest.raises(DamagedDataError, match="not a readable table"):
        s3.read_table("t.parquet")
    # Clients are remembered with the key that they began with.
    store = Store(s3.root)
    store.fs = type(store.fs)(key="nobody", secret="nothing", skip_instance_cache=True)
    with pytest.raises(UserError) as refused:
        store.read_table("t.parquet")
    assert not isinstance(refused.value, DamagedDataError)
