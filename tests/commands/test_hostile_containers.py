"""Tars and Parquet of anyone: nothing is written outside, nothing unbounded is read, every member has a row."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dinov2_core.cli import main
from dinov2_core.curation.folders import job, reading
from dinov2_core.images import sets
from dinov2_core.shard_map import InlineShardMap
from tests.commands.folders import rows
from tests.pictures import encoded, field, part

PLAIN = ["--nsfw-model=", "--face-model="]


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "ProcessShardMap", lambda workers: InlineShardMap())


def tar(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", errors="surrogateescape") as made:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            made.addfile(info, io.BytesIO(data))
    return out.getvalue()


def screened(place: Path, data: bytes, *options: str) -> dict[object, str]:
    (place / "set").mkdir()
    (place / "set/x.tar").write_bytes(data)
    assert main(["screen", str(place / "set"), "--out", str(place / "out"), *(options or PLAIN)]) == 0
    return {row["path"]: str(row["reason"]) for row in rows(place / "out" / "verdicts.parquet")}


def test_every_member_has_a_row_whatever_its_name(tmp_path: Path) -> None:
    names = ["a.png", "a.jpg", "/etc/b.png", "../../c.png", "odd\udcff.png", "d.png"]
    members = {name: encoded(field(i, 48, 48)) for i, name in enumerate(names)}
    found = screened(tmp_path, tar({**members, "e.png": b"", "f.txt": b"no image"}))
    assert set(found) == {f"x.tar/{n}" for n in (*names[:4], "odd\\xff.png", "d.png", "e.png")}
    assert {path: reason for path, reason in found.items() if reason} == {"x.tar/e.png": "empty"}


def test_links_and_devices_are_passed_over(tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as made:
        for number, kind in enumerate((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(f"{number}.png")
            info.type, info.linkname = kind, "/etc/passwd"
            made.addfile(info)
        data = encoded(field(0, 48, 48))
        info = tarfile.TarInfo("real.png")
        info.size = len(data)
        made.addfile(info, io.BytesIO(data))
    assert screened(tmp_path, out.getvalue()) == {"x.tar/real.png": ""}


def test_a_tar_that_breaks_off_keeps_what_was_read_and_has_a_row_itself(tmp_path: Path) -> None:
    data = tar({f"{i}.png": encoded(field(i, 48, 48)) for i in range(3)})
    found = screened(tmp_path, data[: len(tar({f"{i}.png": encoded(field(i, 48, 48)) for i in range(2)})) - 9000])
    assert found.pop("x.tar") == "damaged container"
    assert found
    assert set(found.values()) == {""}


def test_a_member_that_claims_any_size_is_read_to_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (sets, reading):
        monkeypatch.setattr(module, "MAX_BYTES", 50_000)
    found = screened(tmp_path, tar({"bomb.png": bytes(10_000_000), "a.png": encoded(field(0, 48, 48))}))
    assert found == {"x.tar/bomb.png": "too large", "x.tar/a.png": ""}


def test_blurred_copies_of_members_that_point_outside_stay_inside(tmp_path: Path) -> None:
    part("centerface")
    with Image.open(part("solvay")) as picture:
        picture.thumbnail((480, 480))
        out = io.BytesIO()
        picture.convert("RGB").save(out, "JPEG")
    found = screened(tmp_path, tar({"../../out.jpg": out.getvalue()}), "--nsfw-model=", "--blur")
    assert found == {"x.tar/../../out.jpg": ""}
    (row,) = rows(tmp_path / "out" / "verdicts.parquet")
    assert str(row["blurred"]) == f"blurred/{row['sha256']}.jpg"
    assert (tmp_path / "out" / str(row["blurred"])).is_file()
    assert not list(tmp_path.glob("*.jpg"))


def test_tables_with_missing_bytes_and_no_tables_at_all(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    good = encoded(field(0, 48, 48))
    pq.write_table(pa.table({"path": ["a", "b", "../c"], "bytes": [good, None, b"x"]}), tmp_path / "set/0.parquet")
    (tmp_path / "set/1.parquet").write_bytes(b"")
    (tmp_path / "set/2.parquet").write_bytes(b"PAR1" + bytes(99) + b"PAR1")
    assert main(["screen", str(tmp_path / "set"), "--out", str(tmp_path / "out"), *PLAIN]) == 0
    assert {row["path"]: row["reason"] for row in rows(tmp_path / "out" / "verdicts.parquet")} == {
        "0.parquet/a": "",
        "0.parquet/b": "empty",
        "0.parquet/../c": "not an image",
        "1.parquet": "damaged container",
        "2.parquet": "damaged container",
    }
