"""Any set as positions: folders, tars, Parquet and a stage's shards give the same bytes, by name, and cheaply."""

from __future__ import annotations

import io
import pickle
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dinov2_core import manifest, tables
from dinov2_core.errors import UserError
from dinov2_core.images.index import ImageIndex, index_set, index_table
from dinov2_core.images.shards import ShardWriter
from dinov2_core.manifest import Manifest
from dinov2_core.storage import Store

IMAGES = {f"{name}.png": b"\x89PNG" + name.encode() * 50 for name in ("a", "b", "c")}


def contents(index: ImageIndex) -> list[bytes]:
    return index.read(range(len(index)))


def tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as out:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))


def test_a_folder_tree_is_read_by_position(tmp_path: Path) -> None:
    for name, data in IMAGES.items():
        path = tmp_path / "set" / "deep" / name / name
        path.parent.mkdir(parents=True)
        path.write_bytes(data)
    (tmp_path / "set" / "notes.txt").write_text("no image")
    index = index_set(tmp_path / "index", str(tmp_path / "set"))
    assert contents(index) == list(IMAGES.values())
    assert index.read([2, 0]) == [IMAGES["c.png"], IMAGES["a.png"]]
    assert index.name(1) == "deep/b.png/b.png"


def test_tars_of_anyone_are_read_by_position(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    long = "x" * 150 + ".png"  # longer than a tar's name field
    tar(folder / "0.tar", {"a.png": IMAGES["a.png"], "a.cls": b"3", "a.json": b"{}"})
    tar(folder / "1.tar", {"s/b.PNG": IMAGES["b.png"], long: IMAGES["c.png"]})
    index = index_set(tmp_path / "index", str(folder))
    assert contents(index) == list(IMAGES.values())
    assert index.name(1) == "1.tar/s/b.PNG"
    assert index.name(2).startswith("1.tar/xxx")


def test_parquet_is_packed_once(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    table = pa.table({"image": [{"bytes": d, "path": n} for n, d in IMAGES.items()], "label": [0, 1, 2]})
    pq.write_table(table, tmp_path / "set" / "train.parquet")
    index = index_set(tmp_path / "index", str(tmp_path / "set"))
    assert sorted(contents(index)) == sorted(IMAGES.values())
    packed = sorted((tmp_path / "index" / "packed").iterdir())
    before = packed[0].stat().st_mtime_ns
    assert contents(index_set(tmp_path / "index", str(tmp_path / "set"))) == contents(index)
    assert packed[0].stat().st_mtime_ns == before


def test_a_stages_folder_is_its_packed_images(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "root"))
    with ShardWriter(store, "curated_lvd/all") as writer:
        ids = [writer.add(data, "png") for data in IMAGES.values()]
    rows = [{"image_id": i, "source": "s", **writer.locations[i]} for i in ids]
    record = store.write_table("curated_lvd/all/packed-0-0.parquet", tables.from_rows(rows, tables.SCHEMAS["packed"]))
    manifest.write(store, Manifest("curated_lvd", "all", "f", {}, {}, (record, *writer.files)))
    index = index_set(tmp_path / "index", f"{tmp_path}/root/curated_lvd/all")
    assert contents(index) == list(IMAGES.values())
    assert index.name(1) == ids[1]
    by_table = index_table(tmp_path / "other", store, store.read_table(record.path))
    assert contents(by_table) == contents(index)


def test_another_process_opens_the_same_arrays(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    for name, data in IMAGES.items():
        (tmp_path / "set" / name).write_bytes(data)
    index = index_set(tmp_path / "index", str(tmp_path / "set"))
    sent = pickle.dumps(index)
    assert len(sent) < 500, "arrays are mapped, not sent"
    assert contents(pickle.loads(sent)) == contents(index)


def test_a_changed_folder_is_indexed_again_and_has_another_digest(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.png").write_bytes(IMAGES["a.png"])
    first = index_set(tmp_path / "index", str(tmp_path / "set"))
    (tmp_path / "set" / "b.png").write_bytes(IMAGES["b.png"])
    second = index_set(tmp_path / "index", str(tmp_path / "set"))
    assert (len(first), len(second)) == (1, 2)
    assert first.digest != second.digest


@pytest.mark.parametrize(("files", "message"), [({}, "no image"), ({"a.tar": b"no tar" * 200}, "not a readable tar")])
def test_what_cannot_be_indexed_is_explained(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    (tmp_path / "set").mkdir()
    for name, data in files.items():
        (tmp_path / "set" / name).write_bytes(data)
    with pytest.raises(UserError, match=message):
        index_set(tmp_path / "index", str(tmp_path / "set"))
    with pytest.raises(UserError, match="nothing there"):
        index_set(tmp_path / "index", str(tmp_path / "absent"))


def test_an_object_store_is_read_by_ranges(tmp_path: Path) -> None:
    remote = Store("memory://bucket/root")
    with ShardWriter(remote, "set", max_images=2) as writer:
        ids = [writer.add(data, "png") for data in IMAGES.values()]
    index = index_set(tmp_path / "index", "memory://bucket/root/set")
    assert not index.store.local
    assert sorted(contents(index)) == sorted(IMAGES.values())
    assert {index.name(i).rpartition("/")[2] for i in range(3)} == {f"{one}.png" for one in ids}
