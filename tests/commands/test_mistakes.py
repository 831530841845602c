"""What a person can get wrong when they curate a folder: one clear line each, and nothing computed."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dinov2_core.cli import main
from dinov2_core.curation.folders import job
from dinov2_core.shard_map import InlineShardMap
from tests.commands.folders import photo
from tests.pictures import encoded, part


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("mistakes")
    for name in ("images", "empty", "broken", "tables"):
        (made / name).mkdir()
    for i in range(2):
        (made / f"images/{i}.png").write_bytes(encoded(photo(i)))
    (made / "broken/cut.png").write_bytes(encoded(photo(2))[:500])
    for name in ("bad.onnx", "bad.pt", "bad.safetensors", "file", "bad.warc"):
        (made / name).write_bytes(b"nothing of the kind")
    (made / "urls.csv").write_text("id,link\n1,http://a.example/x.png\n")
    pq.write_table(pa.table({"picture": [b"x"]}), made / "tables/a.parquet")
    part("sscd_distilled")
    part("nsfw")
    return made


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """No worker processes, whose start would be most of the time."""
    monkeypatch.setattr(job, "ProcessShardMap", lambda workers: InlineShardMap())


SSCD = "--weights sscd_distilled"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("crawl {p}/none", "none: nothing there"),
        ("crawl {p}/empty", "the folder is empty"),
        ("crawl {p}/urls.csv", "no column of URLs .* among id, link"),
        ("crawl {p}/images --blocklist {p}/none.txt", "none.txt: nothing there"),
        ("screen {p}/none", "nothing there"),
        ("screen {p}/empty", "no image there"),
        ("screen {p}/images --nsfw-model {p}/bad.onnx", "bad.onnx: no usable ONNX model"),
        ("screen {p}/images --face-model {p}/none.onnx", "none.onnx: no model file"),
        ("screen {p}/images --face-model= --nsfw-model= --hashes {p}/none.txt", "none.txt: nothing there"),
        ("dedup {p}/images --weights {p}/bad.onnx", "bad.onnx: no usable ONNX model"),
        ("dedup {p}/images --weights {p}/bad.pt", "bad.pt: no TorchScript file"),
        ("dedup {p}/images --weights nsfw", "no copy-detection network: it takes tensor"),
        ("dedup {p}/images --weights cifar10", "cifar10: no model file"),
        (f"dedup {{p}}/tables {SSCD}", "no column of image bytes .* among picture"),
        (f"leaks --pool {{p}}/images --benchmark {{p}}/empty {SSCD}", "empty: no image there"),
        (f"leaks --pool {{p}}/images --benchmark {{p}}/broken {SSCD}", "broken: no image there decodes"),
        ("embed {p}/images --weights {p}/bad.safetensors", "bad.safetensors: "),
        ("embed {p}/images --weights {p}/none.pth", "none.pth: no model file"),
        ("embed {p}/images --weights {p}/images", "images: "),
        (f"curate --pool {{p}}/images --seeds {{p}}/empty {SSCD}", "empty: no image there"),
        (f"curate --pool {{p}}/images --seeds {{p}}/broken {SSCD}", "broken: no image there decodes"),
        (f"curate --pool {{p}}/images --seeds {{p}}/none {SSCD}", "none: nothing there"),
    ],
)
def test_a_mistake_is_one_line(
    place: Path, tmp_path: Path, command: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [a.format(p=place) for a in command.split()]
    workers = [] if arguments[0] == "crawl" else ["--workers", "1"]
    assert main([*arguments, "--out", str(tmp_path / "out"), *workers]) == 1
    said = capsys.readouterr().err
    assert re.fullmatch(rf"((curate|leaks): [^\n]*\n)*error: .*{message}.*\n", said), said


@pytest.mark.parametrize("verb", ["crawl", "screen", "dedup", "embed"])
def test_results_that_cannot_be_written_are_one_line(
    place: Path, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rest = {"crawl": [], "screen": ["--nsfw-model=", "--face-model="]}.get(verb, SSCD.split())
    assert main([verb, str(place / "images"), "--out", str(place / "file" / "out"), *rest]) == 1
    said = capsys.readouterr().err
    assert re.fullmatch(r"error: .*/file/out: cannot be written .*\n", said), said


@pytest.mark.parametrize(
    ("option", "value"),
    [("workers", "-1"), ("k", "0"), ("side", "8"), ("precision", "3"), ("share", "0"), ("memory", "-5"), ("k", "x")],
)
def test_numbers_that_make_no_sense_are_refused_before_any_work(
    place: Path, tmp_path: Path, option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["dedup", str(place / "images"), "--out", str(tmp_path / "out"), f"--{option}", value])
    assert ended.value.code == 2
    assert f"argument --{option}: '{value}' is no " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
