"""``dinov2 dedup`` and ``dinov2 leaks``: what was planted is found, what is broken is told, killed work goes on."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dinov2_core.cli import main
from tests.commands.folders import FAST, as_parquet, as_tar, photo, pool, rows
from tests.pictures import encoded


@pytest.fixture(scope="module")
def deduplicated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    place = tmp_path_factory.mktemp("dedup")
    images = pool(place / "images")
    assert main(["dedup", str(images), "--out", str(place / "out"), *FAST]) == 0
    return images, place / "out"


def test_copies_form_components_with_the_largest_kept(deduplicated: tuple[Path, Path]) -> None:
    found = {str(r["path"]): r for r in rows(deduplicated[1] / "components.parquet")}
    for i, kind in enumerate(("crop", "jpeg", "colour", "resize")):
        assert found[f"b/{kind}.jpg"]["component"] == found[f"a/{i:02d}.png"]["component"]
    # Equal pixels: the bitmap is the less compressed.
    assert [found[p]["kept"] for p in ("b/same.bmp", "a/00.png", "b/crop.jpg")] == [True, False, False]
    kept: dict[object, int] = {}
    for row in found.values():
        kept[row["component"]] = kept.get(row["component"], 0) + bool(row["kept"])
    assert set(kept.values()) == {1}


def test_pairs_say_how_alike_and_whether_exact(deduplicated: tuple[Path, Path]) -> None:
    pairs = rows(deduplicated[1] / "pairs.parquet")
    exact = [(r["a"], r["b"]) for r in pairs if r["kind"] == "exact"]
    assert exact == [("a/00.png", "b/same.bmp")]
    assert all(float(str(r["similarity"])) > 0.6 for r in pairs)


def test_broken_files_have_reasons_and_odd_names_are_kept(deduplicated: tuple[Path, Path]) -> None:
    refused = {r["path"]: r["reason"] for r in rows(deduplicated[1] / "refused.parquet")}
    assert refused == {"b/cut.png": "truncated", "b/empty.jpg": "empty", "b/page.gif": "html"}
    paths = {r["path"] for r in rows(deduplicated[1] / "components.parquet")}
    assert {"b/odd\\xff.png", "b/wrong.jpg"} <= paths


def test_the_same_command_again_computes_nothing(
    deduplicated: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    before = (deduplicated[1] / "pairs.parquet").stat().st_mtime_ns
    assert main(["dedup", str(deduplicated[0]), "--out", str(deduplicated[1]), *FAST]) == 0
    assert "| kept | 18 |" in capsys.readouterr().out
    assert (deduplicated[1] / "pairs.parquet").stat().st_mtime_ns == before


def test_why_tells_the_story_of_an_image(deduplicated: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["why", "a/00.png", "--root", str(deduplicated[1])]) == 0
    said = capsys.readouterr().out
    assert "kept: False" in said
    assert "b: b/same.bmp, similarity: 1.000, kind: exact" in said
    assert main(["why", "nowhere.png", "--root", str(deduplicated[1])]) == 1
    assert "no image 'nowhere.png'" in capsys.readouterr().err


def test_tars_and_parquet_give_what_the_folder_gives(tmp_path: Path) -> None:
    images = pool(tmp_path / "images", 6)
    results = []
    for source in (as_tar(tmp_path / "tars", images), as_parquet(tmp_path / "tables", images)):
        out = tmp_path / f"out-{source.name}"
        assert main(["dedup", str(source), "--out", str(out), *FAST]) == 0
        results.append([r["kept"] for r in rows(out / "components.parquet")])
    assert results == [[True] * 6] * 2
    assert not (tmp_path.parent / "00.png").exists()


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_with_the_same(tmp_path: Path) -> None:
    images = pool(tmp_path / "images", 8)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "dinov2_core.cli", "dedup", str(images), "--out", str(out), *FAST]
    started = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
    while started.poll() is None and not list(out.rglob("images-*.json")):
        time.sleep(0.05)
    os.killpg(started.pid, signal.SIGKILL)
    started.wait()
    marker = next(out.rglob("images-*.json"))
    before = marker.stat().st_mtime_ns
    assert main(command[3:]) == 0
    assert marker.stat().st_mtime_ns == before
    assert main(["dedup", str(images), "--out", str(tmp_path / "whole"), *FAST]) == 0
    for name in ("pairs.parquet", "components.parquet", "refused.parquet", "dedup.md"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_hash_finds_copies_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images, out = pool(tmp_path / "images"), tmp_path / "out"
    (images / "a/again.png").write_bytes((images / "a/03.png").read_bytes())
    monkeypatch.setattr("dinov2_core.curation.copy_detection.CopyEmbedder.__call__", None)
    command = ["dedup", str(images), "--out", str(out), "--method", "hash", "--workers", "1"]
    assert main([*command, "--threshold", "0.8"]) == 0
    found = {str(r["path"]): r for r in rows(out / "components.parquet")}
    for i, kind in enumerate(("crop", "jpeg", "colour", "resize")):
        assert found[f"b/{kind}.jpg"]["component"] == found[f"a/{i:02d}.png"]["component"]
    assert [found[p]["kept"] for p in ("b/same.bmp", "a/00.png", "b/crop.jpg")] == [True, False, False]
    assert [(r["a"], r["b"]) for r in rows(out / "pairs.parquet") if r["kind"] == "exact"] == [
        ("a/03.png", "a/again.png")
    ]
    assert {r["path"]: r["reason"] for r in rows(out / "refused.parquet")} == {
        "b/cut.png": "truncated",
        "b/empty.jpg": "empty",
        "b/page.gif": "html",
    }
    before = (out / "pairs.parquet").stat().st_mtime_ns
    assert main([*command, "--threshold", "0.8", "--memory", "0"]) == 0
    assert (out / "pairs.parquet").stat().st_mtime_ns == before
    assert main([*command, "--flips"]) == 1
    assert "--flips needs the network" in capsys.readouterr().err


def test_leaks_are_listed_shown_and_dropped_with_their_components(tmp_path: Path) -> None:
    images = pool(tmp_path / "images")
    tests = tmp_path / "tests"
    tests.mkdir()
    for i in (1, 30, 31):
        (tests / f"{i}.png").write_bytes(encoded(photo(i)))
    command = ["leaks", "--pool", str(images), "--benchmark", str(tests), "--out", str(tmp_path / "out"), *FAST]
    assert main([*command, "--threshold", "0.75"]) == 0
    found = rows(tmp_path / "out" / "leaks.parquet")
    assert {(r["pool"], r["benchmark"]) for r in found} == {("a/01.png", "1.png"), ("b/jpeg.jpg", "1.png")}
    assert [r["path"] for r in rows(tmp_path / "out" / "dropped.parquet")] == ["a/01.png", "b/jpeg.jpg"]
    page = (tmp_path / "out" / "leaks.html").read_text()
    assert page.count("<img src='data:image/") == 4
    assert not re.search(r"(src|href)=.https?:", page)


def test_calibration_prints_the_trade_and_auto_uses_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = pool(tmp_path / "images")
    command = ["dedup", str(images), "--out", str(tmp_path / "out"), *FAST, "--sample", "12", "--threshold", "auto"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "24 planted copies" in said
    assert re.search(r"For a precision of 0\.9: threshold 0\.\d+ \(recall [01]\.\d+\)", said)
    # Sixteen pictures cannot prove a precision of 0.9.
    assert "**Warning:**" in said


@pytest.mark.parametrize("extra", [["--flips"], ["--centre"]])
def test_flips_and_centring_keep_true_copies(tmp_path: Path, extra: list[str]) -> None:
    images = pool(tmp_path / "images", 8)
    assert main(["dedup", str(images), "--out", str(tmp_path / "out"), *FAST, *extra]) == 0
    pairs = {(r["a"], r["b"]) for r in rows(tmp_path / "out" / "pairs.parquet")}
    assert ("a/01.png", "b/jpeg.jpg") in pairs


def test_memory_changes_no_result(deduplicated: tuple[Path, Path], tmp_path: Path) -> None:
    assert main(["dedup", str(deduplicated[0]), "--out", str(tmp_path), *FAST, "--memory", "0"]) == 0
    for name in ("pairs.parquet", "components.parquet"):
        assert (tmp_path / name).read_bytes() == (deduplicated[1] / name).read_bytes()


def test_coinciding_detail_finds_copies_that_are_less_alike(tmp_path: Path) -> None:
    """A threshold that no copy reaches: what is found is found by its detail."""
    images = pool(tmp_path / "images", 8)
    assert main(["dedup", str(images), "--out", str(tmp_path / "out"), *FAST, "--threshold", "0.999", "--align"]) == 0
    pairs = rows(tmp_path / "out" / "pairs.parquet")
    assert ("a/01.png", "b/jpeg.jpg") in {(r["a"], r["b"]) for r in pairs}
    assert all(float(str(r["alignment"])) > 0.8 for r in pairs if r["kind"] == "copy")


def test_whitening_asks_for_enough_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = pool(tmp_path / "images", 4)
    assert main(["dedup", str(images), "--out", str(tmp_path / "out"), *FAST, "--whiten"]) == 1
    assert "whitening 512 dimensions needs more images than" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dedup", "{tmp}/none"], "nothing there"),
        (["dedup", "{tmp}"], "no image there"),
        (["dedup", "{tmp}", "--threshold", "high"], "no threshold: 'high'"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [a.format(tmp=tmp_path) for a in arguments]
    assert main([*given, "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert re.fullmatch(rf"error: .*{message}.*\n", said)
