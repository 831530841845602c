"""Files appear whole or not at all, and damage is named."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pyarrow as pa
import pytest

from dinov2_core.errors import DamagedDataError, UserError
from dinov2_core.storage import FileRecord, HashingFile, Store


def test_a_written_file_is_read_back_with_its_checksum(store: Store) -> None:
    record = store.write_bytes("a/b.bin", b"hello")
    assert record == FileRecord("a/b.bin", 5, "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824")
    assert store.read_bytes("a/b.bin") == b"hello"
    assert store.read_range("a/b.bin", 1, 3) == b"ell"
    store.verify(record)


def test_a_writer_that_raises_leaves_the_old_file_and_no_temporary(store: Store) -> None:
    store.write_bytes("x", b"old")
    with pytest.raises(RuntimeError), store.create("x") as f:  # noqa: PT012
        f.write(b"new, half")
        raise RuntimeError
    assert store.read_bytes("x") == b"old"
    assert os.listdir(store.base) == ["x"]


def test_a_killed_writer_leaves_nothing_that_a_reader_sees(store: Store) -> None:
    code = f"""
        import os, signal
        from dinov2_core.storage import Store
        with Store({store.root!r}).create("folder/table.parquet") as f:
            f.write(b"half a file")
            f.inner.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert len(os.listdir(Path(store.base) / "folder")) == 1, "the temporary file is still there"
    assert store.find("") == []
    assert not store.exists("folder/table.parquet")
    assert [entry.bytes for entry in store.listing("folder")] == [len(b"half a file")], "as `dinov2 gc` sees it"


def test_equal_tables_give_equal_bytes(store: Store) -> None:
    table = pa.table({"a": list(range(1000)), "b": ["x"] * 1000})
    one, two = store.write_table("1.parquet", table), store.write_table("2.parquet", table)
    assert (one.sha256, one.rows) == (two.sha256, 1000)


def test_damage_is_named_with_the_file_and_what_to_do(store: Store) -> None:
    record = store.write_bytes("t/part.parquet", b"not parquet")
    with pytest.raises(DamagedDataError, match=r"t/part\.parquet.*materialise"):
        store.read_table("t/part.parquet")
    store.write_bytes("t/part.parquet", b"something else")
    with pytest.raises(DamagedDataError, match="its manifest says 11"):
        store.verify(record)
    with pytest.raises(DamagedDataError, match="missing"):
        store.read_bytes("t/none")
    with pytest.raises(DamagedDataError, match="5 expected"):
        store.read_range("t/part.parquet", 12, 5)


def test_paths_cannot_leave_the_root(store: Store) -> None:
    for path in ("../x", "/etc/passwd", "a/../../b"):
        with pytest.raises(ValueError, match="outside"):
            store.full(path)


def test_the_same_code_runs_on_another_file_system() -> None:
    store = Store("memory://bucket/prefix")
    record = store.write_table("t/a.parquet", pa.table({"x": [1, 2]}))
    assert store.find("t") == ["t/a.parquet"]
    assert store.read_table("t/a.parquet")["x"].to_pylist() == [1, 2]
    store.verify(record)
    assert store.folders("") == ["t"]


def test_a_file_that_exists_is_not_written_where_the_writer_wants_to_be_the_first(store: Store) -> None:
    store.write_bytes("lock", b"one", exclusive=True)
    with pytest.raises(FileExistsError):
        store.write_bytes("lock", b"two", exclusive=True)
    assert store.read_bytes("lock") == b"one"
    assert os.listdir(store.base) == ["lock"], "the loser leaves nothing"


def test_a_full_disk_is_one_clear_line(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with open("/dev/full", "wb", buffering=0) as full, pytest.raises(UserError, match=r"cannot be written.*space"):
        HashingFile(full, "where").write(b"x")


def test_a_listing_tells_size_and_time(store: Store) -> None:
    store.write_bytes("a/b", b"123")
    (entry,) = store.listing("")
    assert (entry.path, entry.bytes) == ("a/b", 3)
    assert abs(entry.modified - time.time()) < 60
    assert store.listing("none") == []
