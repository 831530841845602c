"""Sets: the same items in the same order from folders, tars and Parquet; clear errors; signatures that see changes."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dinov2_core.errors import UserError
from dinov2_core.images.sets import ImageSet, Item, signature


def put(place: Path, data: bytes = b"x") -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(data)


def tar(place: Path, members: dict[str, bytes]) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(place, "w") as made:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            made.addfile(info, io.BytesIO(data))


def test_a_folder_tree_is_read_in_order_of_names_with_its_classes(tmp_path: Path) -> None:
    for name in ("dog/2.jpg", "cat/9.PNG", "cat/deep/1.jpg", "loose.png", ".hidden/1.jpg", "cat/notes.md"):
        put(tmp_path / name, name.encode())
    assert list(ImageSet(str(tmp_path))) == [
        Item("cat/9.PNG", b"cat/9.PNG", "cat"),
        Item("cat/deep/1.jpg", b"cat/deep/1.jpg", "cat"),
        Item("dog/2.jpg", b"dog/2.jpg", "dog"),
        Item("loose.png", b"loose.png", None),
    ]
    assert {item.label for item in ImageSet(str(tmp_path), labels="none")} == {None}
    with pytest.raises(UserError, match=r"'loose.png' lies in no class folder"):
        list(ImageSet(str(tmp_path), labels="folder"))


def test_tars_pair_images_with_their_labels_wherever_those_stand(tmp_path: Path) -> None:
    tar(tmp_path / "b.tar", {"x/1.cls": b"7\n", "x/1.png": b"one"})
    tar(tmp_path / "a.tar", {"0.jpg": b"zero", "0.txt": b"a cat", "0.json": b"{}"})
    assert list(ImageSet(str(tmp_path))) == [
        Item("a.tar/0.jpg", b"zero", "a cat"),
        Item("b.tar/x/1.png", b"one", "7"),
    ]
    assert list(ImageSet(str(tmp_path / "a.tar"))) == [Item("a.tar/0.jpg", b"zero", "a cat")]


def test_parquet_with_bytes_or_with_structs_of_bytes(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [b"1", b"2"], "label": [3, None], "key": ["p", "q"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"image": [{"bytes": b"3", "path": None}]}), tmp_path / "b.parquet")
    assert list(ImageSet(str(tmp_path))) == [
        Item("a.parquet/p", b"1", "3"),
        Item("a.parquet/q", b"2", None),
        Item("b.parquet/0", b"3", None),
    ]


def test_groups_together_are_the_whole_set(tmp_path: Path) -> None:
    for number in range(25):
        put(tmp_path / f"c/{number:02d}.png", bytes([number]))
    one = ImageSet(str(tmp_path))
    groups = one.groups(size=10)
    assert [len(g) for g in groups] == [10, 10, 5]
    assert [item for g in groups for item in one.read(g)] == list(one)


def test_any_file_system_will_do() -> None:
    fs = fsspec.filesystem("memory")
    fs.pipe("/sets-test/cat/1.png", b"1")
    assert list(ImageSet("memory://sets-test")) == [Item("cat/1.png", b"1", "cat")]
    assert len(signature("memory://sets-test")) == 64


def test_a_signature_sees_contents_and_names_and_nothing_else(tmp_path: Path) -> None:
    put(tmp_path / "a/x.png", b"1")
    first = signature(str(tmp_path / "a"))
    put(tmp_path / "b/x.png", b"1")
    assert signature(str(tmp_path / "b")) == first
    put(tmp_path / "b/x.png", b"2")
    assert signature(str(tmp_path / "b")) != first
    (tmp_path / "a/x.png").rename(tmp_path / "a/y.png")
    assert signature(str(tmp_path / "a")) != first


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (None, "nothing there"),
        ({}, "no image there"),
        ({"readme.txt": b"x"}, "no image there"),
        ({"a.png": b"x", "b.tar": b"x"}, "a mixture of 1 tar, 0 Parquet and 1 image files"),
        ({"a.tar": b"not a tar at all" * 99}, "not a readable tar"),
        ({"a.parquet": b"nor this"}, "not readable"),
    ],
)
def test_what_is_missing_or_broken_is_said_with_its_place(
    tmp_path: Path, files: dict[str, bytes] | None, message: str
) -> None:
    place = tmp_path / "set"
    if files is not None:
        place.mkdir()
        for name, data in files.items():
            put(place / name, data)
    with pytest.raises(UserError, match=message) as caught:
        list(ImageSet(str(place)))
    assert str(place) in str(caught.value)


def test_a_tar_without_images_is_an_empty_set(tmp_path: Path) -> None:
    tar(tmp_path / "a.tar", {"readme.md": b"x"})
    with pytest.raises(UserError, match="no image there"):
        list(ImageSet(str(tmp_path)))


def test_parquet_without_a_column_of_bytes_names_its_columns(tmp_path: Path) -> None:
    pq.write_table(pa.table({"url": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"no column of image bytes .* among url"):
        list(ImageSet(str(tmp_path)))
