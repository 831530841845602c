"""Two runs of one partition, a kill inside every stage, a full disk, a clock that goes back, damage on disk.

After each: nothing lost, nothing double, the manifests of an undisturbed run.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dinov2_core import manifest, stage
from dinov2_core.errors import DamagedDataError, UserError
from dinov2_core.storage import Store
from tests import toy_pipeline
from tests.faults.processes import finish, make, wait_for

ALL = ("raw_crawl/b1", "embeddings/b1", "seed_embeddings", "curated_lvd")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The manifests of a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    make_here(folder)
    return toy_pipeline.manifests(folder)


def make_here(folder: Path, names: tuple[str, ...] = ALL, *, verify: bool = False) -> list[str]:
    """Materialise in this process; the names of what was computed."""
    toy_pipeline.lake(folder)
    if not (folder / "data/sources/b1").exists():
        toy_pipeline.put(folder, "b1", "1\n2\n3\n")
    fresh = []
    for name in names:
        of, _, partition = name.partition("/")
        made = stage.materialise(
            Store(str(folder / "data")), toy_pipeline.STAGES[of], partition or "all", verify=verify
        )
        fresh += [name] if made.fresh else []
    return fresh


def hold(folder: Path, name: str) -> Path:
    """Let stage ``name`` wait after its first shard until the file that is returned is removed."""
    path = folder / "hold" / name
    path.parent.mkdir(exist_ok=True)
    path.touch()
    return path


def entered(folder: Path, name: str, shard: int = 1) -> bool:
    return any(call.startswith(f"{name.replace('/', '-')}-{shard:05d}-") for call in toy_pipeline.calls(folder))


def test_two_runs_of_one_partition_at_once_compute_it_once(tmp_path: Path, undisturbed: dict[str, str]) -> None:
    make_here(tmp_path, ())
    held = hold(tmp_path, "raw_crawl")
    first = make(tmp_path / "data", "raw_crawl/b1")
    wait_for(lambda: entered(tmp_path, "raw_crawl/b1"), "the first run is inside the stage")
    second = make(tmp_path / "data", "raw_crawl/b1")
    # It says that it waits, before anything else it could do.
    assert second.stderr is not None
    assert "raw_crawl/b1 is being made by another run; waiting for it" in second.stderr.readline()
    held.unlink()
    assert finish(first)[:2] == (0, "raw_crawl/b1 made\n")
    assert finish(second)[:2] == (0, "raw_crawl/b1 up to date\n")
    assert len(toy_pipeline.calls(tmp_path)) == toy_pipeline.SHARDS
    assert make_here(tmp_path) == list(ALL[1:])
    assert toy_pipeline.manifests(tmp_path) == undisturbed


def test_a_killed_run_gives_up_its_place_and_another_goes_on(tmp_path: Path, undisturbed: dict[str, str]) -> None:
    """In every stage in turn: what was finished is kept, what was begun is begun again once."""
    make_here(tmp_path, ())
    for name in ALL:
        held = hold(tmp_path, name.partition("/")[0])
        label = name if "/" in name else f"{name}/all"
        process = make(tmp_path / "data", *ALL)
        wait_for(lambda label=label: entered(tmp_path, label), f"inside {name}")
        process.kill()
        process.wait()
        assert not (tmp_path / "data" / label / "manifest.json").exists()
        held.unlink()
    assert make_here(tmp_path) == ["curated_lvd"]
    assert toy_pipeline.manifests(tmp_path) == undisturbed
    again = [call for call in toy_pipeline.calls(tmp_path) if not call.endswith("-0")]
    assert {call.rsplit("-", 2)[1] for call in again} == {"00001"}, "only the shard that was under way is done twice"
    assert not list((tmp_path / "data").glob("*/*/.progress"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a tmpfs is not permitted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("room", [0, 24])
def test_a_full_disk_is_one_clear_line_and_with_room_again_the_same_command_goes_on(
    small_disk: Path, undisturbed: dict[str, str], room: int
) -> None:
    make_here(small_disk, ("raw_crawl/b1",))
    ballast = small_disk / "ballast"
    with ballast.open("wb", buffering=0) as f:
        with contextlib.suppress(OSError):
            while f.write(bytes(4096)) == 4096:
                pass
        f.truncate(max(f.tell() - room * 1024, 0))
    with pytest.raises(UserError, match="No space left on device") as told:
        # With some room left the run gets further before it stops.
        make_here(small_disk, ALL)
    assert len(str(told.value).splitlines()) == 1
    assert str(small_disk / "data") in str(told.value)
    store = Store(str(small_disk / "data"))
    for path in (small_disk / "data").glob("*/*/manifest.json"):
        made = manifest.read(store, *str(path.parent.relative_to(small_disk / "data")).split("/"))
        assert made is not None
        for record in made.files:
            store.verify(record)
    ballast.unlink()
    make_here(small_disk)
    assert toy_pipeline.manifests(small_disk) == undisturbed
    assert not list((small_disk / "data").rglob(".tmp-*"))


def test_a_clock_that_goes_back_changes_nothing(
    tmp_path: Path, undisturbed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_here(tmp_path, ALL[:2])
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - 40 * 86400)
    for path in (tmp_path / "data").rglob("*"):
        # As if all of it had been written in the future; the sources were not touched.
        if path.is_file() and "sources" not in path.parts:
            os.utime(path, (real() + 40 * 86400,) * 2)
    assert make_here(tmp_path) == list(ALL[2:]), "what is made is known by its content, not by its date"
    assert make_here(tmp_path) == []
    assert toy_pipeline.manifests(tmp_path) == undisturbed


@pytest.mark.parametrize("kind", ["flipped", "shorter", "empty"])
def test_a_damaged_table_is_found_by_its_checksum_named_and_made_again(
    tmp_path: Path, undisturbed: dict[str, str], kind: str
) -> None:
    make_here(tmp_path)
    store = Store(str(tmp_path / "data"))
    made = manifest.read(store, "embeddings", "b1")
    assert made is not None
    record = made.files[1]
    path = tmp_path / "data" / record.path
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes({"flipped": bytes(data), "shorter": bytes(data[:-9]), "empty": b""}[kind])
    with pytest.raises(DamagedDataError, match=rf"{record.path}.*materialise"):
        store.verify(record)
    assert make_here(tmp_path, ("embeddings/b1",), verify=True) == ["embeddings/b1"]
    store.verify(record)
    assert make_here(tmp_path, verify=True) == [], "and nothing after it, for it is the same again"
    assert toy_pipeline.manifests(tmp_path) == undisturbed


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"stage": "embeddings"}', b"\x80\x04\x95", b"null", b'"\xff"'])
def test_a_damaged_manifest_is_named_and_made_again_by_its_own_stage(
    tmp_path: Path, undisturbed: dict[str, str], damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    make_here(tmp_path)
    (tmp_path / "data/embeddings/b1/manifest.json").write_bytes(damage)
    with pytest.raises(DamagedDataError, match=r"embeddings/b1/manifest\.json.*materialise embeddings"):
        make_here(tmp_path, ("curated_lvd",))
    assert make_here(tmp_path) == ["embeddings/b1"]
    assert "embeddings/b1/manifest.json: not a readable manifest" in caplog.text
    assert toy_pipeline.manifests(tmp_path) == undisturbed
