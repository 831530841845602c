"""The same promises on a real S3 server (SeaweedFS on loopback): whole or absent, seen by others, keys checked."""

from __future__ import annotations

import io
import signal
from collections.abc import Iterator

import fsspec
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from dinov2_core import manifest, stage
from dinov2_core.errors import DamagedDataError
from dinov2_core.images.sets import files_of
from dinov2_core.shard_map import ProcessShardMap, close_pools
from dinov2_core.stages import registry
from dinov2_core.storage import Store
from tests.elsewhere import complaints, elsewhere
from tests.weed import BUCKET, GUEST, Weed, environment

pytestmark = [pytest.mark.s3, pytest.mark.slow]


@pytest.fixture(scope="module", autouse=True)
def server(weed: Weed) -> Iterator[Weed]:
    """The server, and the environment variables with which S3 clients of this process find it."""
    with environment({**weed.env, "AWS_MAX_ATTEMPTS": "4"}):
        yield weed


@pytest.fixture
def s3(request: pytest.FixtureRequest) -> Store:
    """A store at a prefix of the test's own."""
    return Store(f"s3://{BUCKET}/{request.node.name.replace('[', '-').replace(']', '')}")


def test_files_and_tables_are_read_back_with_their_checksums(s3: Store) -> None:
    record = s3.write_bytes("a/b.bin", b"hello")
    assert (record.bytes, s3.size("a/b.bin")) == (5, 5)
    assert s3.read_bytes("a/b.bin") == b"hello"
    s3.verify(record)
    table = pa.table({"x": [1, 2, 3]})
    made = s3.write_table("t/one.parquet", table)
    assert s3.read_table("t/one.parquet", ["x"]).equals(table)
    assert s3.find("") == ["a/b.bin", "t/one.parquet"]
    assert s3.folders("") == ["a", "t"]
    assert made == Store("memory://same/bytes").write_table("t/one.parquet", table), "as on any other file system"


def test_a_range_is_read_and_a_short_one_is_damage(s3: Store) -> None:
    s3.write_bytes("x", bytes(range(100)))
    assert s3.read_range("x", 10, 3) == bytes([10, 11, 12])
    with pytest.raises(DamagedDataError, match="5 expected"):
        s3.read_range("x", 98, 5)
    with pytest.raises(DamagedDataError, match="missing"):
        s3.read_bytes("none")


def test_a_large_file_goes_up_in_parts_and_comes_back(s3: Store) -> None:
    data = np.random.default_rng(0).bytes(60 << 20)
    with s3.create("large") as f:
        for start in range(0, len(data), 1 << 20):
            f.write(data[start : start + (1 << 20)])
    assert s3.size("large") == len(data)
    assert s3.read_range("large", (55 << 20) - 7, 14) == data[(55 << 20) - 7 : (55 << 20) + 7]


def test_a_writer_that_raises_leaves_the_old_file(s3: Store) -> None:
    s3.write_bytes("x", b"old")
    with pytest.raises(RuntimeError), s3.create("x") as f:  # noqa: PT012
        f.write(b"new, half")
        raise RuntimeError
    assert s3.read_bytes("x") == b"old"
    assert s3.find("") == ["x"]


@pytest.mark.parametrize("megabytes", [1, 60])
def test_a_killed_writer_leaves_nothing_that_a_reader_sees(s3: Store, megabytes: int) -> None:
    ended = elsewhere(f"""
        import os, signal
        from dinov2_core.storage import Store
        with Store({s3.root!r}).create("folder/table.parquet") as f:
            for _ in range({megabytes}):
                f.write(bytes(1 << 20))
            os.kill(os.getpid(), signal.SIGKILL)
    """)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert s3.find("") == []
    assert not s3.exists("folder/table.parquet")


def test_what_another_process_writes_is_seen_at_once(s3: Store) -> None:
    assert s3.find("") == []
    assert s3.folders("stage") == []
    assert not s3.exists("stage/b1/manifest.json")
    s3.write_bytes("stage/b0/manifest.json", b"{}")
    assert s3.folders("stage") == ["b0"]
    ended = elsewhere(f"""
        from dinov2_core.storage import Store
        store = Store({s3.root!r})
        store.write_bytes("stage/b1/manifest.json", b"[1]")
        store.write_bytes("stage/b0/manifest.json", b"[0, 0]")
    """)
    assert ended.returncode == 0, ended.stderr
    assert s3.exists("stage/b1/manifest.json")
    assert s3.folders("stage") == ["b0", "b1"]
    assert s3.find("") == ["stage/b0/manifest.json", "stage/b1/manifest.json"]
    assert s3.read_bytes("stage/b0/manifest.json") == b"[0, 0]"


def test_a_source_that_arrives_later_is_seen_by_a_process_that_has_looked_before(s3: Store) -> None:
    s3.write_bytes("sources/b1/one.txt", b"1")
    assert files_of(f"{s3.root}/sources/b1")[2] == ["one.txt"]
    s3.write_bytes("sources/b1/two.txt", b"2")
    ended = elsewhere(f"""
        from dinov2_core.storage import Store
        Store({s3.root!r}).write_bytes("sources/b1/three.txt", b"3")
    """)
    assert ended.returncode == 0, ended.stderr
    assert files_of(f"{s3.root}/sources/b1")[2] == ["one.txt", "three.txt", "two.txt"]


def test_deleting_a_folder_is_seen(s3: Store) -> None:
    s3.write_bytes("a/1", b"1")
    s3.write_bytes("a/b/2", b"2")
    assert s3.find("a") == ["a/1", "a/b/2"]
    s3.delete("a")
    s3.delete("a")
    assert s3.find("a") == []


def test_a_wrong_secret_is_one_clear_line_whatever_is_asked(s3: Store) -> None:
    s3.write_bytes("x", b"1")
    actions = (
        "write_bytes('x', b'1')",
        "write_bytes('x', bytes(60 << 20))",
        "read_bytes('x')",
        "read_range('x', 0, 1)",
        "read_table('x')",
        "find('')",
        "exists('x')",
        "folders('')",
        "size('x')",
    )
    for line in complaints(s3.root, actions, AWS_SECRET_ACCESS_KEY="wrong"):
        assert s3.root in line
        assert "credentials" in line


def test_a_mistyped_bucket_is_one_clear_line_and_is_not_made() -> None:
    ended = elsewhere(f"""
        import os
        os.environ["AWS_ACCESS_KEY_ID"] = {GUEST!r}
        from dinov2_core.errors import UserError
        from dinov2_core.storage import Store
        Store("s3://{BUCKET}/guest").write_bytes("a", b"1")
        try:
            Store("s3://{BUCKET}s/x").write_bytes("a", b"1")
        except UserError as error:
            print(error)
    """)
    assert ended.returncode == 0, ended.stderr[-1500:]
    assert f"s3://{BUCKET}s/x: cannot be written" in ended.stdout
    assert "the bucket's name" in ended.stdout
    assert [name.rstrip("/") for name in fsspec.filesystem("s3", use_listings_cache=False).ls("")] == [BUCKET]


def test_stages_run_on_a_bucket_and_are_up_to_date_afterwards(s3: Store) -> None:
    close_pools()  # workers of earlier tests do not know this server's credentials
    rng = np.random.default_rng(0)
    for label in ("cat", "dog"):
        for number in range(4):
            out = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(out, "PNG")
            s3.write_bytes(f"sets/{label}/{number}.png", out.getvalue())
    seeds = {"sets": [{"name": "toy", "uri": "sets"}]}
    encoder = {"overrides": {"steps": 2, "batch": 4}}
    asked = (("seed_sets", seeds), ("preliminary_encoder", encoder), ("seed_embeddings", {"images_per_task": 3}))
    for name, params in asked:
        made = stage.materialise(s3, registry.get(name), params=params, shard_map=ProcessShardMap(2))
        assert made.fresh
        for record in made.manifest.files:
            s3.verify(record)
    for name, params in asked:
        assert not stage.materialise(s3, registry.get(name), params=params).fresh
    made = manifest.read(s3, "seed_embeddings")
    assert made is not None
    assert sum(f.rows or 0 for f in made.table("embeddings")) == 8
    assert [p for p in s3.find("") if ".progress" in p] == []
