"""``dinov2 screen``, ``embed``, ``curate`` and ``crawl`` on folders; every command of the document runs."""

from __future__ import annotations

import functools
import gzip
import hashlib
import http.server
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from dinov2_core.cli import main
from dinov2_core.curation.folders.curate import MODES
from dinov2_core.embedder import Embedder
from dinov2_core.model import weights
from dinov2_core.model.preprocessing import Preprocessing
from dinov2_core.model.vision_transformer import VisionTransformer, VitConfig
from tests.commands.folders import photo, pool, rows
from tests.pictures import encoded, part

DOCS = Path(__file__).resolve().parents[2] / "docs" / "curation.md"
PLAIN = ["--nsfw-model", "", "--face-model", "", "--workers", "1"]
ENCODER = ["--weights", "sscd_distilled", "--workers", "1"]


def test_every_image_has_a_verdict_with_its_reason(tmp_path: Path) -> None:
    images = pool(tmp_path / "images", 6)
    listed = hashlib.sha256((images / "a/03.png").read_bytes()).hexdigest()
    (tmp_path / "bad.txt").write_text(f"# known\nsha256:{listed}\n")
    command = ["screen", str(images), "--out", str(tmp_path / "out"), *PLAIN, "--hashes", str(tmp_path / "bad.txt")]
    assert main(command) == 0
    found = {r["path"]: r for r in rows(tmp_path / "out" / "verdicts.parquet")}
    assert len(found) == 16
    assert found["a/03.png"]["reason"] == "known bad image"
    assert found["b/empty.jpg"]["reason"] == "empty"
    assert found["a/00.png"]["duplicate_of"] == "b/same.bmp"
    assert all(bool(r["keep"]) == (r["reason"] == "") for r in found.values())


def test_faces_are_written_blurred_and_the_clear_bytes_are_not(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with Image.open(part("solvay")) as picture:
        picture.thumbnail((640, 640))
        picture.convert("RGB").save(tmp_path / "images" / "group.jpg")
    out = tmp_path / "out"
    part("centerface")
    assert main(["screen", str(tmp_path / "images"), "--out", str(out), "--blur", *PLAIN[:2], "--workers", "1"]) == 0
    (row,) = rows(out / "verdicts.parquet")
    assert len(row["faces"]) > 20  # type: ignore[arg-type]
    with Image.open(out / str(row["blurred"])) as blurred:
        now = np.asarray(blurred.convert("RGB"))
    before = np.asarray(Image.open(tmp_path / "images" / "group.jpg").convert("RGB"))
    face = row["faces"][0]  # type: ignore[index]
    inside = np.s_[face["y"] : face["y"] + face["h"], face["x"] : face["x"] + face["w"]]
    # Detail inside the box, as neighbour differences, is gone.
    detail = [np.abs(np.diff(x[inside].astype(float), axis=1)).mean() for x in (before, now)]
    assert detail[1] < 0.5 * detail[0]
    clear = (tmp_path / "images" / "group.jpg").read_bytes()
    assert all(clear not in f.read_bytes() for f in out.rglob("*") if f.is_file())


def test_embeddings_are_float16_lists_of_fixed_width(tmp_path: Path) -> None:
    images = pool(tmp_path / "images", 5)
    assert main(["embed", str(images), "--out", str(tmp_path / "out"), *ENCODER]) == 0
    table = pq.read_table(tmp_path / "out" / "embeddings.parquet")
    assert table.column_names == ["path", "embedding"]
    kind = table.schema.field("embedding").type
    assert (kind.list_size, str(kind.value_type)) == (512, "halffloat")
    norms = np.linalg.norm(np.array(table["embedding"].to_pylist(), np.float32), axis=1)
    np.testing.assert_allclose(norms, 1, atol=1e-2)
    assert len(rows(tmp_path / "out" / "refused.parquet")) == 3


def test_embeddings_are_written_a_row_group_a_task_and_never_held_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dinov2_core.curation.folders.embed.PER_TASK", 4)
    images = pool(tmp_path / "images", 9)
    assert main(["embed", str(images), "--out", str(tmp_path / "out"), *ENCODER]) == 0
    file = pq.ParquetFile(tmp_path / "out" / "embeddings.parquet")
    sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    assert len(sizes) > 2
    assert max(sizes) <= 4
    paths = file.read(["path"])["path"].to_pylist()
    assert paths == sorted(paths)
    assert len(paths) + len(rows(tmp_path / "out" / "refused.parquet")) == 9 + 10


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    place = tmp_path_factory.mktemp("curate")
    seeds = place / "seeds"
    seeds.mkdir()
    for i in range(3):
        (seeds / f"{i}.png").write_bytes(encoded(photo(i)))
    return pool(place / "pool", 24), seeds, place / "out"


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_selects_with_its_cause(seeded: tuple[Path, Path, Path], mode: str) -> None:
    images, seeds, out = seeded
    command = ["curate", "--pool", str(images), "--seeds", str(seeds), "--out", str(out), "--mode", mode]
    assert main([*command, "--target", "8", "--min-hits", "0", *ENCODER]) == 0
    found = rows(out / "selected.parquet")
    assert 0 < len(found) <= 8
    assert len({r["path"] for r in found}) == len(found)
    for row in found:
        assert (row["seed"] is not None) == (row["source"] == "sample")
        assert (int(str(row["cluster"])) >= 0) == (row["source"] != "sample")
    if mode == "sample":
        assert {"a/00.png", "a/01.png", "a/02.png"} <= {r["path"] for r in found if r["rank"] == 0} | {"a/00.png"}
    text = (out / "curate.md").read_text()
    assert "| **Total** |" in text
    drawn, of = (int(n) for n in re.findall(r"(\d+) of (\d+) draws are of images drawn already", text)[0])
    assert of - drawn >= len(found)
    retrieved = [int(n) for n in re.findall(r"\| (\d+) \| \d+ \|$", text, re.M)]
    assert sum(retrieved) == of


def test_a_vit_embeds_by_its_class_token(tmp_path: Path) -> None:
    torch.manual_seed(0)
    backbone = VisionTransformer(VitConfig(dim=16, depth=1, heads=2, patch=4, image_size=16)).eval()
    (tmp_path / "vit.safetensors").write_bytes(weights.to_bytes(backbone, Preprocessing(16)))
    images = pool(tmp_path / "images", 3)
    command = ["embed", str(images), "--out", str(tmp_path / "out"), "--workers", "1"]
    assert main([*command, "--weights", str(tmp_path / "vit.safetensors")]) == 0
    found = {r["path"]: np.array(r["embedding"], np.float32) for r in rows(tmp_path / "out" / "embeddings.parquet")}
    expected = Embedder(*weights.load(tmp_path / "vit.safetensors"))([photo(1)])[0]
    np.testing.assert_allclose(found["a/01.png"], expected, atol=2e-3)


@pytest.mark.slow
def test_a_killed_screening_goes_on_and_ends_with_the_same(tmp_path: Path) -> None:
    images = pool(tmp_path / "images", 8)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "dinov2_core.cli", "screen", str(images), "--out", str(out), *PLAIN]
    started = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
    while started.poll() is None and not list(out.rglob("images-*.json")):
        time.sleep(0.02)
    os.killpg(started.pid, signal.SIGKILL)
    started.wait()
    marker = next(out.rglob("images-*.json"))
    before = marker.stat().st_mtime_ns
    assert main(command[3:]) == 0
    assert marker.stat().st_mtime_ns == before
    assert main(["screen", str(images), "--out", str(tmp_path / "whole"), *PLAIN]) == 0
    for name in ("verdicts.parquet", "screen.md"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_list_of_urls_is_crawled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "x.png").write_bytes(encoded(photo(1)))
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        (tmp_path / "urls").mkdir()
        (tmp_path / "urls/list.txt").write_text(f"{address}/x.png\n{address}/none.png\n")
        for extra in ([], ["--allow-private"]):
            command = ["crawl", str(tmp_path / "urls"), "--out", str(tmp_path / f"out{len(extra)}")]
            assert main([*command, *extra]) == 0
        server.shutdown()
    closed, opened = (
        {str(r["url"]).rsplit("/", 1)[-1]: r["status"] for r in rows(tmp_path / f"out{n}" / "images.parquet")}
        for n in (0, 1)
    )
    assert "stored" not in closed.values()
    assert opened == {"x.png": "stored", "none.png": "failed"}


def test_an_archive_is_crawled(tmp_path: Path) -> None:
    body = encoded(photo(2))
    reply = b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    head = (
        "WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:uuid:1>\r\nWARC-Date: 2026-01-01T00:00:00Z\r\n"
        "WARC-Target-URI: http://site.example/y.png\r\nContent-Type: application/http; msgtype=response\r\n"
        f"Content-Length: {len(reply)}\r\n\r\n"
    )
    (tmp_path / "w").mkdir()
    (tmp_path / "w/a.warc.gz").write_bytes(gzip.compress(head.encode() + reply + b"\r\n\r\n"))
    assert main(["crawl", str(tmp_path / "w"), "--out", str(tmp_path / "out")]) == 0
    assert [(r["url"], r["status"]) for r in rows(tmp_path / "out" / "images.parquet")] == [
        ("http://site.example/y.png", "stored")
    ]


def test_a_bucket_is_crawled_and_why_reads_the_root(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bucket = fsspec.filesystem("memory")
    bucket.pipe_file("/bucket/photos/z.png", encoded(photo(3)))
    assert main(["crawl", "memory://bucket/photos", "--out", str(tmp_path / "out")]) == 0
    (row,) = rows(tmp_path / "out" / "images.parquet")
    assert (row["url"], row["status"]) == ("z.png", "stored")
    # Without the table that the command wrote, the folder is a data root with one finished stage.
    (tmp_path / "out" / "images.parquet").unlink()
    capsys.readouterr()
    assert main(["why", str(row["image_id"])[:12], "--root", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "raw_crawl" in said
    assert "z.png" in said


def test_a_folder_is_crawled_into_shards(tmp_path: Path) -> None:
    images = pool(tmp_path / "images", 4)
    assert main(["crawl", str(images), "--out", str(tmp_path / "out")]) == 0
    found = {r["url"]: r for r in rows(tmp_path / "out" / "images.parquet")}
    assert found["b/empty.jpg"]["status"] == "refused"
    row = found["a/02.png"]
    shard = (tmp_path / "out" / str(row["shard"])).read_bytes()
    start = int(str(row["offset"]))
    assert shard[start : start + int(str(row["bytes"]))] == (images / "a/02.png").read_bytes()
    assert "b/odd\\xff.png" in found


@pytest.mark.slow
def test_every_command_of_the_document_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    pool(tmp_path / "photos", 6)
    for name in ("nsfw", "centerface", "sscd"):
        part(name)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/1.png").write_bytes(encoded(photo(1)))
    (tmp_path / "bad.txt").write_text("0" * 64 + "\n")
    (tmp_path / "domains.txt").write_text("||ads.example^\n")
    commands = re.findall(r"^dinov2 (.*)$", DOCS.read_text(), re.M)
    assert {c.split()[0] for c in commands} == {"parts", "crawl", "screen", "dedup", "leaks", "embed", "curate", "why"}
    for command in commands:
        if not command.startswith("parts"):
            assert main(shlex.split(command)) == 0, (command, capsys.readouterr().err)
