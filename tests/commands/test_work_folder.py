"""The ``--out`` of the commands on folders: what an older version left, several commands in one, how work is cut."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from dinov2_core.cli import main
from dinov2_core.curation.folders import job, reading
from dinov2_core.progress import Progress
from dinov2_core.shard_map import InlineShardMap
from tests.commands.folders import photo, rows
from tests.pictures import encoded, part

EMBED = ["--weights", "sscd_distilled"]


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "ProcessShardMap", lambda workers: InlineShardMap())


@pytest.fixture
def images(tmp_path: Path) -> Path:
    part("sscd_distilled")
    made = tmp_path / "images"
    made.mkdir()
    for i in range(3):
        (made / f"{i}.png").write_bytes(encoded(photo(i)))
    (made / "cut.png").write_bytes(encoded(photo(3))[:500])
    return made


def _spoil(out: Path, column: str) -> None:
    """What a version left that did not know ``column``, in tables and in summaries."""
    for file in out.rglob(".work/**/*rows.parquet"):
        table = pq.read_table(file)
        if column in table.column_names:
            pq.write_table(table.drop_columns([column]), file)
    for file in out.rglob(".work/**/*.json"):
        file.write_text(json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k != column}))
    for file in out.glob("*.json"):
        file.unlink()


@pytest.mark.parametrize(
    ("command", "column"),
    [
        (["embed", *EMBED], "width"),
        (["embed", *EMBED], "embedding"),
        (["dedup", *EMBED, "--side", "128"], "width"),
        (["dedup", "--method", "hash"], "width"),
        (["screen", "--nsfw-model=", "--face-model="], "sharpness"),
    ],
)
def test_work_without_a_column_is_one_line_and_of_another_version_is_made_again(
    images: Path,
    tmp_path: Path,
    command: list[str],
    column: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [command[0], str(images), "--out", str(tmp_path / "out"), *command[1:]]
    assert main(given) == 0
    _spoil(tmp_path / "out", column)
    capsys.readouterr()
    assert main(given) == 1
    said = capsys.readouterr().err
    assert re.fullmatch(r"error: .*/out/\.work: what an earlier run left there cannot be used: .*\n", said), said
    monkeypatch.setattr(job, "FORMAT", job.FORMAT + 1)
    assert main(given) == 0


def test_commands_with_one_out_keep_each_others_results_and_why_tells_all(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    seeds = tmp_path / "seeds"
    seeds.mkdir()
    (seeds / "s.png").write_bytes(encoded(photo(0)))
    assert main(["dedup", str(images), "--out", str(out), "--method", "hash"]) == 0
    assert main(["embed", str(images), "--out", str(out), *EMBED]) == 0
    curate = ["curate", "--pool", str(images), "--seeds", str(seeds), "--out", str(out), *EMBED, "--target", "1"]
    assert main(curate) == 0
    assert [(r["path"], r["reason"], r["command"]) for r in rows(out / "refused.parquet")] == [
        ("cut.png", "truncated", name) for name in ("curate --pool", "dedup", "embed")
    ]
    capsys.readouterr()
    # As typed in the working folder; the tables count from the set's folder.
    assert main(["why", str(images / "0.png"), "--root", str(out)]) == 0
    said = capsys.readouterr().out
    assert re.findall(r"^(\w+)$", said, re.M) == ["components", "embeddings", "selected"]
    assert "seed: s.png" in said


def test_why_says_of_an_image_that_nothing_selected_that_it_was_read(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, seeds = tmp_path / "out", tmp_path / "seeds"
    seeds.mkdir()
    (seeds / "s.png").write_bytes(encoded(photo(0)))
    curate = ["curate", "--pool", str(images), "--seeds", str(seeds), "--out", str(out), *EMBED, "--target", "1"]
    assert main(curate) == 0
    capsys.readouterr()
    assert main(["why", "2.png", "--root", str(out)]) == 0
    assert "read by curate, and in none of the results" in capsys.readouterr().out
    assert main(["why", "none.png", "--root", str(out)]) == 1
    assert "no image 'none.png' is in these tables" in capsys.readouterr().err


def test_other_settings_with_the_same_out_are_said(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["dedup", str(images), "--out", str(tmp_path / "out"), "--method", "hash"]
    assert main(given) == 0
    assert main(given) == 0
    assert "made again" not in capsys.readouterr().err
    assert main([*given, "--threshold", "0.7"]) == 0
    assert "made with other images or settings; it is made again" in capsys.readouterr().err


def test_a_small_folder_is_cut_finely_and_a_large_one_coarsely(tmp_path: Path) -> None:
    for i in range(100):
        (tmp_path / f"{i}.png").touch()
    assert [len(g) for g in reading.groups(str(tmp_path), 250)[0]] == [16] * 6 + [4]
    assert [len(g) for g in reading.groups(str(tmp_path), 5)[0]] == [5] * 20


def test_progress_in_a_log_never_says_the_same_twice() -> None:
    log = io.StringIO()
    with Progress("images", 2, stream=log, every=0) as progress:
        progress.advance(2)
    assert log.getvalue().count("images: 2/2 (100 %)") == 1
